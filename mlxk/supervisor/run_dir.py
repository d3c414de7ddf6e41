"""The front's own directory for its sockets: fresh, private, with a short path, removed at the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from mlxk.config import paths

MAX_IPC_PATH_BYTES = 103
"""sun_path on macOS holds 104 bytes with its end; Linux has 108."""


PREFIX = "mlxk-"


class StartError(Exception):
    """The server cannot start here; the message says what to do."""


def make_run_dir() -> Path:
    """A new 0700 directory. Raises StartError if no place gives a path that a socket can have."""
    tried: list[str] = []
    for base in run_dir_bases():
        if len(f"{base}/{PREFIX}xxxxxxxx/s".encode()) > MAX_IPC_PATH_BYTES:
            tried.append(f"{base} (too long)")
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        except OSError as error:
            tried.append(f"{base} ({error.strerror})")
    raise StartError(
        f"No directory for the server's sockets could be made: {', '.join(tried)}. "
        "Set TMPDIR to a short path."
    )


def run_dir_bases() -> list[Path]:
    """Where run directories may lie, the best place first."""
    places = (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp")
    return [Path(place) for place in dict.fromkeys(places) if place]


def remove_run_dir(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


class InstanceLock:
    """At most one server per MLXK_HOME: a second bind on an ipc path would silently steal it."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """False if another server holds it. Raises StartError if the home cannot be written."""
        path = paths.lock_file()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(
                f"{path.parent} cannot be written ({error.strerror}). Set MLXK_HOME to a directory that can."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
