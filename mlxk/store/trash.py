"""Makes folders disappear: first at once, by a rename, and then really.

A removal that is broken off has then either not begun, or the name is gone and only the bytes are still
there, in a folder that the next removal finds. Links are never followed: what they point at stays.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from pathlib import Path

_PREFIX = ".mlxk-removing--"
_ATTEMPTS = 100


def discard(folder: Path, root: Path) -> Path | None:
    """Takes `folder` out of sight; returns where it went, to be given to `destroy`. `root` is a folder of the
    same file system. None: it was a link, and only the link has gone."""
    if folder.is_symlink():
        folder.unlink()
        return None
    label = os.fspath(folder.relative_to(root)).replace(os.sep, "--")
    target = root / f"{_PREFIX}{label}--{uuid.uuid4().hex[:8]}"
    os.rename(folder, target)
    return target


def destroy(target: Path) -> None:
    """Removes what `discard` took. Somebody else may be doing the same, so that names vanish under us."""
    for _ in range(_ATTEMPTS):
        try:
            shutil.rmtree(target)
        except FileNotFoundError:
            if not os.path.lexists(target):
                return
        else:
            return
    shutil.rmtree(target)


def leftovers(root: Path) -> list[Path]:
    """What removals that were broken off have left in `root`."""
    try:
        names = [name for name in os.listdir(root) if name.startswith(_PREFIX)]
    except OSError:
        return []
    paths = [root / name for name in sorted(names)]
    return [path for path in paths if path.is_dir() and not path.is_symlink()]


def label_of(leftover: Path) -> str:
    """The name of the folder that it was, "/" written as "--"."""
    return leftover.name.removeprefix(_PREFIX).rpartition("--")[0]


def size_below(folder: Path) -> int:
    """Bytes that removing `folder` gives back. Links count nothing; of a file with another name elsewhere
    (hard link) the bytes stay."""
    total = 0
    for base, _folders, files in os.walk(folder, followlinks=False):
        for name in files:
            try:
                facts = os.lstat(os.path.join(base, name))
            except OSError:
                continue
            if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
                total += facts.st_size
    return total
