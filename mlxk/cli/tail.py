"""Reading a log that is being written and rotated: its last lines, and what comes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mlxk.config.log_files import OLD_FILES, old_file

BLOCK_BYTES = 65536

Mark = tuple[int, int]
"""What tells a file that is not written any more from all others: inode (used again some day) and time."""


class LogReader:
    """Holds the present file open: a rotation takes nothing away from it. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._files = [path, *(old_file(path, number) for number in range(1, OLD_FILES + 1))]
        self._file = _open(path)
        self._older = self._marks()
        self.lost = False
        """Files went faster than they were read: lines are missing. For the reader to set back."""

    def last_lines(self, n_lines: int) -> list[bytes]:
        """Of the present file and the older ones, with their line ends. To be called first; `read` goes on
        from there."""
        lines: list[bytes] = []
        if self._file is not None:
            lines = _last_of(self._file, n_lines)
        for path in self._files[1:]:
            if len(lines) >= n_lines:
                break
            if (file := _open(path)) is not None:
                with file:
                    lines = _last_of(file, n_lines - len(lines)) + lines
        return lines

    def read(self) -> Iterator[bytes]:
        """All that has come since, in blocks; across rotations, and when the log is removed and made anew."""
        while True:
            if self._file is None:
                self._file = _open(self._files[0])
                self._older = self._marks()
            if self._file is None:
                return
            while block := self._file.read(BLOCK_BYTES):
                yield block
            try:
                facts = self._files[0].stat()
            except OSError:
                return  # between two names, or removed: it may come back
            if facts.st_ino != os.fstat(self._file.fileno()).st_ino:
                yield self._file.read()  # written between the last read and the rotation
                self._go_on()
            elif facts.st_size < self._file.tell():
                self._file.seek(0)  # emptied by somebody
            else:
                return

    def _go_on(self) -> None:
        """Opens the file that was begun when ours was full."""
        assert self._file is not None
        ours = os.fstat(self._file.fileno())
        newer: list[Path] = []
        for path in self._files:  # the present one first, ever older ones after it
            try:
                facts = path.stat()
            except OSError:
                continue
            if facts.st_ino == ours.st_ino:
                break
            if _mark(facts) not in self._older:
                newer.append(path)
        else:
            # Ours is not among them: it was removed, or rotated out by many lines at once.
            self.lost = len(newer) > 1
        self._file.close()
        self._older.add(_mark(ours))
        self._file = _open(newer[-1]) if newer else None

    def _marks(self) -> set[Mark]:
        """Of the older files, which nobody writes any more: they are not to be read (again)."""
        marks: set[Mark] = set()
        for path in self._files[1:]:
            with contextlib.suppress(OSError):
                marks.add(_mark(path.stat()))
        return marks

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()


def _mark(facts: os.stat_result) -> Mark:
    return facts.st_ino, facts.st_mtime_ns


def _open(path: Path) -> IO[bytes] | None:
    try:
        return path.open("rb", buffering=0)
    except OSError:
        return None


def _last_of(file: IO[bytes], n_lines: int) -> list[bytes]:
    """The last lines of a file, which is read to its end."""
    at = end = file.seek(0, os.SEEK_END)
    parts: list[bytes] = []
    n_ends = 0
    while at > 0 and n_ends <= n_lines:
        size = min(BLOCK_BYTES, at)
        at -= size
        file.seek(at)
        parts.insert(0, file.read(size))
        n_ends += parts[0].count(b"\n")
    file.seek(end)
    lines = [line + b"\n" for line in b"".join(parts).split(b"\n")]
    lines[-1] = lines[-1][:-1]  # not ended yet
    if not lines[-1]:
        lines.pop()
    return lines[-n_lines:] if n_lines else []
