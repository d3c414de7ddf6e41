"""Which server is running: a small file that the server writes and every verb reads."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlxk.config.paths import instance_file

_CLOCK_SLACK_S = 2.0
"""psutil counts Linux create times from the boot time, which moves a little when the clock is adjusted.
A pid is not used again within so short a time."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A running server, as it described itself."""

    pid: int
    created_at: float
    """psutil's create_time of that pid, unix seconds: so a pid that was used again is not taken for ours."""
    control: str
    """Path of the control socket's file."""
    url: str
    version: str
    argv: tuple[str, ...]
    """What it was started with, for `mlxk restart`."""
    cwd: str = ""
    """Where: relative paths among the arguments are meant from there."""


def read_instance() -> Instance | None:
    """The running server. None if there is no file, if it is garbage, or if its process is gone."""
    instance = read_recorded()
    return instance if instance is not None and is_running(instance) else None


def read_recorded() -> Instance | None:
    """What the file says, also of a server that is gone. None if there is no file or if it is garbage."""
    return _read(instance_file())


def write_instance(instance: Instance) -> None:
    """Replaces the file in one step (a reader sees the old or the new one, never a half); mode 0600."""
    path = instance_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(instance), file)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def remove_instance(pid: int) -> None:
    """Removes the file if it still speaks of `pid`: a late goodbye must not erase a successor's."""
    path = instance_file()
    instance = _read(path)
    if instance is not None and instance.pid == pid:
        with contextlib.suppress(OSError):  # a folder that is read-only by now: the file counts as stale
            path.unlink(missing_ok=True)


def _read(path: Path) -> Instance | None:
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        return Instance(
            pid=_checked(data["pid"], int),
            created_at=float(_checked(data["created_at"], int, float)),
            control=_checked(data["control"], str),
            url=_checked(data["url"], str),
            version=_checked(data["version"], str),
            argv=tuple(_checked(word, str) for word in _checked(data["argv"], list)),
            cwd=_checked(data.get("cwd", ""), str),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _checked(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not one of {kinds}")
    return value


def is_running(instance: Instance) -> bool:
    """Whether that very process lives."""
    import psutil

    try:
        process = psutil.Process(instance.pid)
        same = abs(process.create_time() - instance.created_at) <= _CLOCK_SLACK_S
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, ValueError, OverflowError):
        return False
