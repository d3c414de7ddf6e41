"""Whether what is to be written would fit and may be written at all. Writes nothing to find out."""

from __future__ import annotations

import os
from pathlib import Path

from mlxk.store.hub_errors import OperationError

_RESERVE_BYTES = 64 * 1024 * 1024
"""Left for whoever else writes to the disk: a system whose disk is full to the last byte fails oddly."""


def free_bytes(path: Path) -> int:
    """What a user may still write to the file system that `path` is, or would be, on."""
    status = os.statvfs(existing(path))
    return status.f_bavail * status.f_frsize


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def check_space(path: Path, needed_bytes: int, what: str) -> None:
    """Raises OperationError `no_space` with the numbers."""
    from mlxk.config.units import format_size

    free = free_bytes(path)
    if needed_bytes == 0 or needed_bytes + _RESERVE_BYTES <= free:
        return
    raise OperationError(
        "no_space",
        f"{what} takes {format_size(needed_bytes)}, and {path} has {format_size(free)} free. Make room "
        "(`mlxk list` shows sizes, `mlxk rm` removes models) or set HF_HOME to a folder on another disk",
        needed_bytes=needed_bytes,
        free_bytes=free,
        path=str(path),
    )


def check_writable(path: Path) -> None:
    """Raises OperationError `read_only` if nothing can be made in `path`."""
    base = existing(path)
    if not base.is_dir():
        raise OperationError(
            "read_only", f"{base} is no folder; HF_HOME says where models go", path=str(base)
        )
    is_mounted_read_only = bool(os.statvfs(base).f_flag & os.ST_RDONLY)
    if is_mounted_read_only or not os.access(base, os.W_OK | os.X_OK):
        why = "is on a disk that is mounted read-only" if is_mounted_read_only else "may not be written"
        raise OperationError(
            "read_only",
            f"{base} {why} (by user {os.geteuid()}); change that, or set HF_HOME to another folder",
            path=str(base),
        )
