"""Which log files there are, under which names, and how long they are kept. Read by `mlxk logs`, too.

server.log            what the server logs                    rotated: server.log.1, server.log.2
server.out            what a detached server's process prints itself (a traceback, a library's warning)
MODEL.log             what a model's workers print, one after the other      rotated likewise
MODEL.crash.json      the model's last crash
spare.log             what workers print that never got a model
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

FILE_BYTES = 4 * 1024 * 1024
"""At this size a log becomes NAME.1."""
OLD_FILES = 2
"""So many full ones are kept of each log: a model's logs take at most three times FILE_BYTES."""
FOLDER_BYTES = 256 * 1024 * 1024
"""All logs together: beyond it the oldest files go."""
KEEP_S = 30 * 24 * 3600.0
"""A file to which nothing was written for so long goes: its model is not used any more, or not there."""

SERVER = "server"
SPARE = "spare"
_RESERVED = (SERVER, SPARE)
_PLAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LOG_NAME = re.compile(r".+(?:\.(?:log|out)(?:\.\d+)?|\.crash\.json)")


def file_stem(model: str) -> str:
    """A file name for a model's name: readable, and never another model's.

    A plain lower-case name stands for itself. Any other (a slash, a capital letter on a file system that
    ignores case, a name too long for a file) gets a few digits of its hash.
    """
    if _PLAIN.fullmatch(model) and "--" not in model and model not in _RESERVED:
        return model
    digits = hashlib.sha256(model.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    readable = _UNSAFE.sub("_", model.replace("/", "--")).lstrip(".-")[:80]
    return f"{readable}--{digits}"


def model_log(folder: Path, model: str) -> Path:
    return folder / f"{file_stem(model)}.log"


def spare_log(folder: Path) -> Path:
    return folder / f"{SPARE}.log"


def crash_file(folder: Path, model: str) -> Path:
    return folder / f"{file_stem(model)}.crash.json"


def server_log(folder: Path) -> Path:
    return folder / f"{SERVER}.log"


def server_output(folder: Path) -> Path:
    return folder / f"{SERVER}.out"


def old_file(path: Path, number: int) -> Path:
    """1 is the one before the present one."""
    return path.with_name(f"{path.name}.{number}")


def rotate(path: Path, n_old: int = OLD_FILES) -> None:
    """NAME becomes NAME.1, and so on; the oldest is overwritten. Raises OSError."""
    for number in range(n_old, 0, -1):
        source = old_file(path, number - 1) if number > 1 else path
        with contextlib.suppress(FileNotFoundError):
            source.replace(old_file(path, number))


def prune(folder: Path, *, keep_s: float = KEEP_S, folder_bytes: int = FOLDER_BYTES) -> list[Path]:
    """Remove what is too old, then what is too much: full files first, the oldest first; the small notes of
    crashes last. Only files named like logs are counted and touched. Never raises OSError."""
    files = sorted(_log_files(folder), key=lambda one: (_worth(one[0]), one[1].st_mtime))
    total = sum(facts.st_size for _, facts in files)
    now = time.time()
    removed = []
    for path, facts in files:
        if now - facts.st_mtime > keep_s or total > folder_bytes:
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
                total -= facts.st_size
    return removed


def _worth(path: Path) -> int:
    if path.suffix == ".json":
        return 2
    return 0 if path.suffix[1:].isdigit() else 1


def _log_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _LOG_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)
