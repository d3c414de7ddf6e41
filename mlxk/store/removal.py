"""What removing a model means, and doing it: a local folder, a repository of the hub's, or one snapshot.

Nothing outside of the two places where models are is ever touched: links are removed, not followed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mlxk.config.paths import models_dir
from mlxk.store import trash
from mlxk.store.cache_locks import all_locks, lock_folder
from mlxk.store.hub_cache import HubRepo, hub_cache_dir, read_repo
from mlxk.store.hub_errors import OperationError

_SHORT = 12


class RemovalKind(StrEnum):
    LOCAL = "local"
    REPOSITORY = "repository"
    SNAPSHOT = "snapshot"
    LEFTOVER = "leftover"
    """The rest of a removal that was broken off."""


@dataclass(frozen=True, slots=True)
class Removal:
    """One thing to be removed, and what that gives back."""

    kind: RemovalKind
    name: str
    path: Path
    size_bytes: int
    revision: str | None = None
    n_snapshots: int = 0
    """Of a repository."""
    link_target: Path | None = None
    """The folder is a link to this one, which stays."""
    blobs: tuple[Path, ...] = ()
    """Of a snapshot: those that no other one uses."""
    refs: tuple[Path, ...] = ()
    """Of a snapshot: the branches and tags that mean it, and huggingface_hub's list of its files."""

    def holds(self, path: Path) -> bool:
        """Whether a model in folder `path` loses its files by this."""
        return path == self.path or self.path in path.parents


def local_removal(name: str, path: Path) -> Removal:
    return Removal(RemovalKind.LOCAL, name, path, _size(path), link_target=_link(path))


def repository_removal(name: str, repo: Path, n_snapshots: int) -> Removal:
    """Also of one that holds no snapshot: a download that had only begun."""
    return Removal(
        RemovalKind.REPOSITORY, name, repo, _size(repo), n_snapshots=n_snapshots, link_target=_link(repo)
    )


def snapshot_removal(repo: HubRepo, revision: str) -> Removal:
    """One snapshot; of the last one, the repository with it."""
    if repo.snapshots == (revision,):
        whole = repository_removal(repo.name, repo.path, 1)
        return Removal(
            whole.kind, whole.name, whole.path, whole.size_bytes, revision, 1, link_target=whole.link_target
        )
    others = {
        blob
        for other in repo.snapshots
        if other != revision
        for blob in _linked_blobs(repo.path, repo.snapshot_path(other))
    }
    path = repo.snapshot_path(revision)
    own = sorted(_linked_blobs(repo.path, path) - others)
    size = trash.size_below(path) + sum(_blob_bytes(blob) for blob in own)
    name = f"{repo.name}@{revision[:_SHORT]}"
    listing = repo.path / "trees" / f"{revision}.json"
    refs = (*_refs_to(repo.path, revision), *([listing] if listing.is_file() else []))
    return Removal(RemovalKind.SNAPSHOT, name, path, size, revision, blobs=tuple(own), refs=refs)


def renewed(removal: Removal) -> Removal:
    """The same under its lock, as things are now: while a person was asked, a download may have come to an
    end, and need the blobs, or the repository, of the snapshot that goes.

    Raises OperationError `model_not_found` if somebody else was quicker.
    """
    found: Removal | None = removal
    if not os.path.lexists(removal.path):
        found = None
    elif removal.revision is not None:
        whole = removal.kind is RemovalKind.REPOSITORY
        repo = read_repo(removal.path if whole else removal.path.parents[1])
        found = snapshot_removal(repo, removal.revision) if removal.revision in repo.snapshots else None
    if found is None:
        raise OperationError("model_not_found", f"{removal.name} is gone already", model=removal.name)
    return found


def leftover_removals(label: str | None = None) -> list[Removal]:
    """What earlier removals left behind; with `label` only those of that folder."""
    found = []
    for root in (hub_cache_dir(), models_dir()):
        for path in trash.leftovers(root):
            if label in (None, trash.label_of(path)):
                size = trash.size_below(path)
                found.append(Removal(RemovalKind.LEFTOVER, trash.label_of(path), path, size))
    return found


@contextmanager
def held(removal: Removal) -> Iterator[None]:
    """Keeps downloads of the repository away meanwhile.

    Raises OperationError `model_busy` if one is at work.
    """
    if removal.kind not in (RemovalKind.REPOSITORY, RemovalKind.SNAPSHOT):
        yield
        return
    repo = removal.path if removal.kind is RemovalKind.REPOSITORY else removal.path.parents[1]
    with all_locks(repo.parent, repo.name) as is_free:
        if not is_free:
            raise OperationError(
                "model_busy",
                f"{removal.name} is being downloaded at this moment; end that first (Ctrl-C where it runs), "
                "or wait for it",
                model=removal.name,
            )
        yield


def hide(removal: Removal) -> list[Path]:
    """First step: from now on the model is no more. Returns what is still to be destroyed."""
    if removal.kind is RemovalKind.LEFTOVER:
        return [removal.path]
    root = models_dir() if removal.kind is RemovalKind.LOCAL else hub_cache_dir()
    _check_inside(removal.path, root)
    if removal.kind is RemovalKind.SNAPSHOT:
        # The blobs first: broken off here, the snapshot is named as damaged, and its links still say what is
        # left to do.
        for file in (*removal.blobs, *removal.refs):
            _check_inside(file, root)
        for blob in removal.blobs:
            blob.unlink(missing_ok=True)
        for ref in removal.refs:
            ref.unlink(missing_ok=True)
    gone = trash.discard(removal.path, root)
    if removal.kind is RemovalKind.LOCAL and removal.path.parent != root:
        _remove_empty(removal.path.parent)
    return [gone] if gone else []


def destroy(removal: Removal, hidden: Iterable[Path]) -> None:
    """Second step: the bytes come back."""
    for path in hidden:
        trash.destroy(path)
    if removal.kind is RemovalKind.REPOSITORY:
        locks = lock_folder(removal.path.parent, removal.path.name)
        for lock in [*locks.glob("*.lock")] if locks.is_dir() and not locks.is_symlink() else []:
            lock.unlink(missing_ok=True)
        _remove_empty(locks)


def _check_inside(path: Path, root: Path) -> None:
    """The last lock on the door: a folder of ours, reached without a link that leads elsewhere."""
    real_root = Path(os.path.realpath(root))
    real_parent = Path(os.path.realpath(path.parent))
    if real_parent != real_root and real_root not in real_parent.parents:
        raise OperationError(
            "not_removable",
            f"{path} leads out of {root} by a link; mlxk removes nothing there: {real_parent}",
            path=str(path),
        )


def _linked_blobs(repo: Path, snapshot: Path) -> set[Path]:
    """The blobs of this repository that a snapshot's links name, whether they are there or not."""
    blobs = repo / "blobs"
    real_blobs = os.path.realpath(blobs)
    found = set()
    for base, folders, files in os.walk(snapshot, followlinks=False):
        for name in (*folders, *files):
            link = os.path.join(base, name)
            if os.path.islink(link):
                folder, blob = os.path.split(os.path.normpath(os.path.join(base, os.readlink(link))))
                if (
                    os.path.realpath(folder) == real_blobs
                ):  # also a link with a whole path, as some copies have
                    found.add(blobs / blob)
    return found


def _refs_to(repo: Path, revision: str) -> Iterator[Path]:
    for base, _folders, files in os.walk(repo / "refs", followlinks=False):
        for name in files:
            path = Path(base, name)
            try:
                meant = path.read_bytes()[:256].decode("utf-8", errors="replace").strip()
            except OSError:
                continue
            if meant == revision:
                yield path


def _blob_bytes(blob: Path) -> int:
    try:
        facts = blob.lstat()
    except OSError:
        return 0
    return 0 if blob.is_symlink() or facts.st_nlink > 1 else facts.st_size


def _size(path: Path) -> int:
    return 0 if path.is_symlink() else trash.size_below(path)


def _link(path: Path) -> Path | None:
    return Path(os.path.realpath(path)) if path.is_symlink() else None


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it holds something else, or is no more
        folder.rmdir()
