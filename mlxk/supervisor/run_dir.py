"""The front's own directory for its sockets: fresh, private, with a short path, removed at the end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from mlxk.config import paths

MAX_IPC_PATH_BYTES = 103
"""sun_path on macOS holds 104 bytes with its end; Linux has 108."""

LOCK_PATIENCE_S = 0.2
LOOKERS_PATIENCE_S = 10.0
"""Who only looks holds the lock for an instant, unless the system stops it in just that one."""
PREFIX = "mlxk-"


class StartError(Exception):
    """The server cannot start here; the message says what to do."""


def make_run_dir() -> Path:
    """A new 0700 directory. Raises StartError if no place gives a path that a socket can have."""
    tried: list[str] = []
    for base in run_dir_bases():
        if not has_room_for_a_socket(base):
            tried.append(f"{base} (too long)")
            continue
        try:
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        except OSError as error:
            tried.append(f"{base} ({error.strerror})")
            continue
        try:
            _try_to_bind(path / "try")
            return path
        except OSError as error:
            remove_run_dir(path)
            tried.append(f"{base} (sockets: {error.strerror or error})")
    raise StartError(
        f"No directory for the server's sockets could be made: {', '.join(tried)}. "
        f"Set TMPDIR to a short path (under {MAX_IPC_PATH_BYTES - len(f'/{PREFIX}xxxxxxxx/s')} bytes) "
        "that you may write to."
    )


def run_dir_bases() -> list[Path]:
    """Where run directories may lie, the best place first. Not by tempfile.gettempdir(), which tries each
    place by writing a file: on a full disk it finds none and raises."""
    places = (os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR"), "/tmp")
    return [Path(place) for place in dict.fromkeys(places) if place and os.path.isabs(place)]


def has_room_for_a_socket(base: Path) -> bool:
    """Whether the path of a socket in a run directory under `base` is short enough for the system."""
    return len(os.fsencode(f"{base}/{PREFIX}xxxxxxxx/s")) <= MAX_IPC_PATH_BYTES


def _try_to_bind(path: Path) -> None:
    """Raises OSError where the file system takes no sockets (some network and shared folders)."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(str(path))
    path.unlink()


def remove_run_dir(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


class InstanceLock:
    """At most one server per MLXK_HOME: a second bind on an ipc path would silently steal it."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """False if another server holds it. Raises StartError if the home cannot be written."""
        try:
            path = paths.lock_file()
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unwritable(error) from error
        try:
            locked = _lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise StartError(
                f"{path} cannot be locked ({error.strerror}). Set MLXK_HOME to a directory on a local disk."
            ) from error
        if not locked:
            os.close(descriptor)
            return False
        with contextlib.suppress(OSError):  # only for people and `mlxk doctor`; a full disk is no obstacle
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> bool:
    """Tries for a moment: `mlxk doctor` and others look whether anybody holds the lock, and share it then."""
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            patience_s = LOOKERS_PATIENCE_S if _is_only_looked_at(descriptor) else LOCK_PATIENCE_S
            if time.monotonic() - began >= patience_s:
                return False
            time.sleep(0.02)


def _is_only_looked_at(descriptor: int) -> bool:
    """No server holds the lock: a server's is not shared."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def lock_holder() -> int | None:
    """The pid that holds the lock of this home, 0 if it is not known who; None if nobody does."""
    try:
        with open(paths.lock_file(), "rb") as file:
            # Shared: two who only look do not take each other for a server.
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                word = file.read(32).strip()
                return int(word) if word.isdigit() else 0
    except OSError:
        pass
    return None


def _unwritable(error: OSError) -> StartError:
    where = paths.home() if error.errno is not None else "$MLXK_HOME"
    cause = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StartError(f"{where} cannot be written ({cause}). Free some space on its disk.")
    return StartError(f"{where} cannot be written ({cause}). Set MLXK_HOME to a directory that can.")
