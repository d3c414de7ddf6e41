"""Conversations in files: JSON with the model, the settings, and the messages in OpenAI's shape."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlxk.cli.asked import RANGES, Wishes, checked_number
from mlxk.cli.conversation.state import Conversation, Message
from mlxk.cli.errors import CliError

MAX_FILE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Saved:
    """What a file holds."""

    model: str | None
    wishes: Wishes | None
    """None: the file says nothing of settings (a bare list of messages from elsewhere)."""
    messages: list[Message]


def folder() -> Path:
    """Where conversations are that have a NAME and no path."""
    from mlxk.config.paths import home

    return home() / "conversations"


def saved_names() -> list[str]:
    return sorted(path.stem for path in folder().glob("*.json"))


def path_of(name: str) -> Path:
    """A path if it looks like one (a slash, `~`, or .json at its end), else a name in our folder."""
    if "/" in name or name.startswith(("~", ".")) or name.endswith(".json"):
        return Path(os.path.abspath(os.path.expanduser(name)))
    return folder() / f"{name}.json"


def save(conversation: Conversation, path: Path) -> None:
    """In one step: a reader sees the old file or the new one. Mode 0600. Raises CliError, and then nothing
    has changed: also if the file holds what this conversation does not, which would be lost."""
    _refuse_to_overwrite(conversation, path)
    text = json.dumps(_as_json(conversation), ensure_ascii=False, indent=1) + "\n"
    try:
        if path.parent == folder():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise
    except (OSError, ValueError) as error:
        raise CliError("save_failed", f"nothing is saved: {path}: {_reason(error)}") from error


def load(path: Path) -> Saved:
    """Raises CliError if the file is no conversation."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CliError("load_failed", f"{path} is longer than {MAX_FILE_BYTES // 2**20} MiB")
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CliError("load_failed", f"nothing is loaded: {path}: {_reason(error)}") from error
    try:
        return _from_json(data)
    except ValueError as error:
        raise CliError("load_failed", f"nothing is loaded: {path}: {error}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it is no JSON" if isinstance(error, ValueError | RecursionError) else str(error)


def _refuse_to_overwrite(conversation: Conversation, path: Path) -> None:
    if not os.path.lexists(path):
        return
    with contextlib.suppress(CliError):
        kept = load(path).messages
        if conversation.messages[: len(kept)] == kept:
            return  # an earlier state of this conversation
    raise CliError(
        "save_failed",
        f"{path} holds something else, and would be lost. Choose another name, or remove it first",
    )


def _as_json(conversation: Conversation) -> dict[str, Any]:
    wishes = conversation.wishes
    settings = {name: getattr(wishes, name) for name in RANGES} | {"stop": list(wishes.stop)}
    return {
        "format": "mlxk-conversation",
        "version": 1,
        "saved_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": conversation.model,
        "settings": settings,
        "messages": [*wishes.instructions(), *(_message_json(one) for one in conversation.messages)],
    }


def _message_json(message: Message) -> dict[str, Any]:
    extras: dict[str, Any] = {"reasoning_content": message.reasoning} if message.reasoning else {}
    if message.interrupted:
        extras["interrupted"] = True
    return {"role": message.role, "content": message.content, **extras}


def _from_json(data: Any) -> Saved:
    """Raises ValueError that says what is wrong with it."""
    document = {"messages": data} if isinstance(data, list) else data
    if not isinstance(document, dict) or not isinstance(document.get("messages"), list):
        raise ValueError("it holds no list of messages")
    system, messages = None, []
    for index, item in enumerate(document["messages"]):
        role = item.get("role") if isinstance(item, dict) else None
        content = item.get("content") if isinstance(item, dict) else None
        if role not in ("system", "developer", "user", "assistant") or not isinstance(content, str):
            raise ValueError(f"messages[{index}] is no text of a user, an assistant or the system")
        if role in ("system", "developer"):
            if index:
                raise ValueError(f"messages[{index}] is a system prompt that does not come first")
            system = content
            continue
        thoughts = item.get("reasoning_content")
        reasoning = thoughts if isinstance(thoughts, str) else ""
        messages.append(Message(role, content, reasoning, item.get("interrupted") is True))
    model = document.get("model")
    settings = document.get("settings")
    wishes = _wishes(settings, system) if isinstance(settings, dict) else None
    if wishes is None and system is not None:
        wishes = Wishes(system)
    return Saved(model if isinstance(model, str) else None, wishes, messages)


def _wishes(settings: dict[str, Any], system: str | None) -> Wishes:
    wishes = Wishes(system)
    for name in RANGES:
        if settings.get(name) is not None:
            setattr(wishes, name, checked_number(name, settings[name]))
    stop = settings.get("stop", [])
    if not isinstance(stop, list) or not all(isinstance(one, str) for one in stop):
        raise ValueError("settings.stop is no list of texts")
    wishes.stop = tuple(stop)
    return wishes
