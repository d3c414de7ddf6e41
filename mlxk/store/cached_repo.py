"""One repository's folder in the hub's cache, as a download and a removal see it: paths, sizes, refs."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlxk.store.hub_client import RemoteFile

UNFINISHED = ".incomplete"


@dataclass(frozen=True, slots=True)
class CachedRepo:
    """Paths only: nothing needs to be there."""

    root: Path
    """The cache: `hub_cache_dir()`."""
    repo_id: str

    @property
    def folder_name(self) -> str:
        return f"models--{self.repo_id.replace('/', '--')}"

    @property
    def path(self) -> Path:
        return self.root / self.folder_name

    def snapshot(self, commit: str) -> Path:
        return self.path / "snapshots" / commit

    def blob(self, etag: str) -> Path:
        return self.path / "blobs" / etag

    def partial(self, etag: str) -> Path:
        """Where a blob grows. The name that huggingface_hub used for it, too, when it resumed downloads."""
        return self.path / "blobs" / (etag + UNFINISHED)

    def blob_lock(self, etag: str) -> Path:
        return self.root / ".locks" / self.folder_name / f"{etag}.lock"

    def is_placed(self, file: RemoteFile, commit: str) -> bool:
        """Whether the snapshot has this file, with all its bytes."""
        return size_of(self.snapshot(commit) / file.name) == file.size_bytes

    def present_bytes(self, file: RemoteFile, commit: str) -> int:
        """How much of the file is already here and need not come again."""
        if self.is_placed(file, commit) or size_of(self.blob(file.etag)) == file.size_bytes:
            return file.size_bytes
        part = size_of(self.partial(file.etag))
        return part if part is not None and part <= file.size_bytes else 0

    def drop_broken(self, file: RemoteFile, commit: str) -> None:
        """Removes the file where it has another size than the hub says: it is cut off, or a pointer. The
        links of other snapshots to that blob come to life again with it."""
        pointer = self.snapshot(commit) / file.name
        if os.path.lexists(pointer) and not self.is_placed(file, commit):
            pointer.unlink()
        blob = self.blob(file.etag)
        if size_of(blob) not in (None, file.size_bytes) or (os.path.islink(blob) and not blob.exists()):
            blob.unlink()

    def drop(self, file: RemoteFile, commit: str) -> None:
        """Removes the file, and the blob that it is."""
        pointer = self.snapshot(commit) / file.name
        blob = self.blob(file.etag)
        if pointer.is_symlink() and os.path.lexists(blob) and os.path.samefile(pointer, blob):
            blob.unlink()
        pointer.unlink()

    def read_ref(self, revision: str) -> str | None:
        """The commit that the branch or tag meant at the last download."""
        try:
            return (self.path / "refs" / revision).read_text(encoding="utf-8").strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def write_ref(self, revision: str, commit: str) -> None:
        """At the end of a download and not, as huggingface_hub does, before it: until the new files are all
        here, the name means the old ones."""
        path = self.path / "refs" / revision
        if self.read_ref(revision) == commit:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(commit)
        os.chmod(draft, 0o644)
        os.replace(draft, path)


def size_of(path: Path) -> int | None:
    """Bytes of a file, links followed; None if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None
