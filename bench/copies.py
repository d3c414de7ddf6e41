"""Copies of one model under different names, for scenes with several models."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def copies_of(folder: Path, count: int) -> Iterator[list[Path]]:
    """Real copies: hard links would share what a system keeps per file."""
    with tempfile.TemporaryDirectory(prefix="mlxk-bench-") as root:
        copies = [Path(root) / f"{folder.name}-{letter}" for letter in "abcdefgh"[:count]]
        for copy in copies:
            shutil.copytree(folder, copy)
        yield copies
