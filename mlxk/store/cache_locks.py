"""Who is at work in a model's part of the hub's cache. `flock`, which ends with the process that holds it.

`.locks/models--ORG--NAME/` is huggingface_hub's place for its locks, one per blob; beside them lies ours, one
for the whole repository, so that two `pull`s of a model take turns and an `rm` sees either.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from mlxk.store.hub_errors import CancelledError

_POLL_S = 0.2
_OWN = "mlxk.lock"
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)
"""Some network file systems know no locks. Better without than not at all: what two downloads would spoil
together, the checksum finds."""


def lock_folder(root: Path, folder_name: str) -> Path:
    """Where the locks of the repository in `root`/`folder_name` are."""
    return root / ".locks" / folder_name


@contextlib.contextmanager
def repository_lock(
    root: Path, folder_name: str, cancel: threading.Event, waiting: Callable[[], None]
) -> Iterator[None]:
    """Holds the repository for a download. `waiting` is called once if another one has it.

    Raises CancelledError if `cancel` is set meanwhile.
    """
    folder = lock_folder(root, folder_name)
    with blob_lock(folder / _OWN, cancel, waiting):
        yield


@contextlib.contextmanager
def blob_lock(path: Path, cancel: threading.Event, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds one lock file, as huggingface_hub does while it writes the blob of that name."""
    said = False
    while (descriptor := _try(path)) is None:
        if not said:
            said = True
            waiting()
        if cancel.wait(_POLL_S):
            raise CancelledError
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def all_locks(root: Path, folder_name: str) -> Iterator[bool]:
    """Holds every lock of the repository, if all are free; gives False (and holds none) if one is not."""
    folder = lock_folder(root, folder_name)
    with contextlib.ExitStack() as held:
        is_free = True
        try:
            names = sorted(name for name in os.listdir(folder) if name.endswith(".lock"))
        except OSError:
            names = []
        # Ours in any case, first: a download that begins now waits for it.
        for name in dict.fromkeys([_OWN, *names]):
            descriptor = _try(folder / name, create=name == _OWN)
            if descriptor is None:
                is_free = False
                break
            if descriptor >= 0:
                held.callback(os.close, descriptor)
        if not is_free:
            held.close()
        yield is_free


def is_locked(root: Path, folder_name: str) -> bool:
    """Whether a download of the repository is at work, ours or another program's. Makes and keeps nothing."""
    folder = lock_folder(root, folder_name)
    try:
        paths = [folder / name for name in os.listdir(folder) if name.endswith(".lock")]
        for path in paths:
            descriptor = _try(path, create=False)
            if descriptor is None:
                return True
            if descriptor >= 0:
                os.close(descriptor)
    except OSError:  # no lock was ever taken, or the cache is not ours to write
        pass
    return False


def _try(path: Path, *, create: bool = True) -> int | None:
    """A descriptor that holds the lock; None: somebody else has it; -1: there is no such lock any more."""
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    try:
        descriptor = os.open(path, flags, 0o664)
    except FileNotFoundError:
        return -1 if not create else None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it may have removed the file since: then this is a lock on nothing.
        if not os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        return None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return descriptor
        os.close(descriptor)
        raise
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
