"""What is known of the installed models, kept in `$MLXK_HOME/inspections.json` so that the next `mlxk list`
need not read 200 models' headers again.

An entry holds for exactly the files that were seen (name, size, times, inode of each) and for the code that
judged them: another mlxk or mlx_lm starts anew. Nothing here may hurt: a file that is missing, broken or of
another version is an empty one, and one that cannot be written is not written. Two processes at once: the
last one's file stays, whole; at worst something is inspected once more.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlxk.config.paths import home
from mlxk.store import architectures
from mlxk.store.faults import Fault, Severity
from mlxk.store.folder import Folder, open_regular
from mlxk.store.inspection import ModelFacts, inspect_folder, remember, remembered

_LARGEST_BYTES = 32 * 1024 * 1024
_SETTLED_NS = 2_000_000_000
"""A file that was changed so shortly ago may change again without its times showing it (a coarse clock)."""


def cache_file() -> Path:
    return home() / "inspections.json"


def inspect_all(folders: Iterable[tuple[Folder, bool]], *, keep: bool = True) -> list[ModelFacts]:
    """The facts of each (folder, may it run its own code), from the cache where it has them.

    `keep`: what is new is written there; entries of folders that are not asked for stay while they exist.
    """
    entries, rules = _read(), _rules()
    if entries is None or entries.get("rules") != rules:
        entries = {"rules": rules, "models": {}}
    models: dict[str, Any] = entries["models"]
    found: list[ModelFacts] = []
    news = False
    for folder, trusted in folders:
        key, mark = f"{folder.path}{' trusted' if trusted else ''}", _mark(folder)
        kept = _facts(models.get(key), mark)
        facts = remembered(folder, trusted=trusted) or kept or inspect_folder(folder, trusted=trusted)
        remember(folder, facts, trusted=trusted)
        if kept != facts and _is_settled(folder):
            models[key] = {"mark": mark, "facts": asdict(facts)}
            news = True
        found.append(facts)
    if news and keep:
        _write({"rules": rules, "models": {key: entry for key, entry in models.items() if _is_there(key)}})
    return found


def _mark(folder: Folder) -> list[Any]:
    """As JSON gives it back."""
    return [list(entry) for entry in folder.files]


def _is_settled(folder: Folder) -> bool:
    # A reason such as "cannot be read" may go away without a file changing: a right given to its folder.
    return bool(folder.files) and folder.touched_ns() < time.time_ns() - _SETTLED_NS


def _is_there(key: str) -> bool:
    return os.path.isdir(key.removesuffix(" trusted"))


def _rules() -> str:
    """Changes with the code that judges: ours, and mlx_lm's list of architectures."""
    here = Path(__file__).parent
    try:
        with os.scandir(here) as entries:
            ours = sorted((one.name, one.stat().st_mtime_ns) for one in entries if one.name.endswith(".py"))
    except OSError:  # not installed as files
        ours = []
    return f"{ours} {architectures.stamp()}"


def _facts(entry: Any, mark: list[Any]) -> ModelFacts | None:
    """The facts of an entry that holds for these files; None for one that does not, or makes no sense."""
    try:
        if entry["mark"] != mark:
            return None
        data = dict(entry["facts"])
        if not isinstance(data["capabilities"], list) or not isinstance(data["faults"], list):
            return None
        data["capabilities"] = tuple(data["capabilities"])
        data["faults"] = tuple(_faults(data["faults"]))
        return ModelFacts(**data)
    except (TypeError, KeyError, ValueError, AttributeError):
        return None


def _faults(entries: Any) -> Iterator[Fault]:
    for one in entries:
        yield Fault(one["kind"], Severity(one["severity"]), one["text"], one["advice"])


def _read() -> dict[str, Any] | None:
    try:
        with open_regular(cache_file()) as file:
            data = json.loads(file.read(_LARGEST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(data, dict) and isinstance(data.get("models"), dict)
    return data if whole else None


def _write(entries: dict[str, Any]) -> None:
    draft: Path | None = None
    with contextlib.suppress(OSError):  # a full disk, a home that cannot be written: next time, then
        path = cache_file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(entries, file, separators=(",", ":"))
        os.replace(draft, path)
        return
    if draft is not None:
        with contextlib.suppress(OSError):
            draft.unlink()
