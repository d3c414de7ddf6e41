"""What lies in a model's folder: names, sizes and times, read in one pass."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

WEIGHT_ENDINGS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".npz")
_MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")


class FileEntry(NamedTuple):
    """One regular file, links followed."""

    name: str
    """Relative to the folder, with / between parts."""
    size_bytes: int
    modified_ns: int
    """Unix time; -1 for a link that leads nowhere (an interrupted download of the hub's)."""
    changed_ns: int = 0
    """Unix time at which the file or its rights last changed: whatever is done to it shows here."""
    inode: int = 0

    @property
    def dangling(self) -> bool:
        return self.modified_ns < 0


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder's files at one moment. Two that are equal have, for all that matters, the same content."""

    path: Path
    files: tuple[FileEntry, ...]
    """Sorted by name. Files of subfolders only where the folder itself holds no weights (GGUF variants)."""

    def named(self, name: str) -> FileEntry | None:
        return next((entry for entry in self.files if entry.name == name), None)

    def ending(self, *endings: str) -> tuple[FileEntry, ...]:
        return tuple(entry for entry in self.files if entry.name.endswith(endings))

    def looks_like_model(self, *, by_itself: bool = False) -> bool:
        """`by_itself`: not by what lies in its subfolders, which may be models of their own."""
        return any(
            entry.name in _MODEL_FILES or entry.name.endswith(WEIGHT_ENDINGS)
            for entry in self.files
            if not by_itself or "/" not in entry.name
        )

    def weights(self) -> tuple[FileEntry, ...]:
        """The files that a load reads; for a format that we cannot load, the files that hold the weights.

        mlx_lm reads `model*.safetensors`: a `consolidated.safetensors` beside them holds the same once more.
        """
        tensors = self.ending(".safetensors")
        named = tuple(entry for entry in tensors if entry.name.startswith("model"))
        return named or tensors or self.ending(".gguf") or self.ending(*WEIGHT_ENDINGS)

    def weight_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.weights())

    def modified_at(self) -> float:
        """Unix seconds of the newest file; 0.0 if there is none."""
        return max((entry.modified_ns for entry in self.files if not entry.dangling), default=0) / 1e9

    def touched_ns(self) -> int:
        """When any of the files last changed in any way."""
        return max((max(entry.modified_ns, entry.changed_ns) for entry in self.files), default=0)


def read_folder(path: Path) -> Folder:
    """Never raises: a folder that is missing or cannot be read has no files."""
    files, subfolders = _read_level(os.fspath(path), prefix="")
    if not any(entry.name.endswith(WEIGHT_ENDINGS) for entry in files):
        for name in subfolders:
            below, _ = _read_level(os.path.join(path, name), prefix=f"{name}/")
            files += (entry for entry in below if entry.name.endswith(".gguf"))
    return Folder(path, tuple(sorted(files)))


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading. Raises OSError for anything else: a pipe would block for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
    return os.fdopen(descriptor, "rb")


def _read_level(path: str, prefix: str) -> tuple[list[FileEntry], list[str]]:
    files: list[FileEntry] = []
    subfolders: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    files.append(FileEntry(prefix + entry.name, 0, -1))
                    continue
                if stat.S_ISREG(status.st_mode):
                    marks = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
                    files.append(FileEntry(prefix + entry.name, *marks))
                elif stat.S_ISDIR(status.st_mode):
                    subfolders.append(entry.name)
    except OSError:
        pass
    return files, sorted(subfolders)
