"""The models of every place, by name, and a cheap way to know that the places have changed.

Only directories are read here, no model's files: rebuilding is cheap, and looking whether it is needed is
cheaper still. A name from an earlier place hides the same name of a later one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mlxk.config.paths import models_dir
from mlxk.config.settings import Settings
from mlxk.store.builtin import BUILTIN_NAME, builtin_path
from mlxk.store.folder import read_folder
from mlxk.store.hub_cache import HubRepo, hub_cache_dir, read_repo, repo_folders, watched_paths

_SETTLED_NS = 2_000_000_000
"""A file system's clock is coarse (2 s at worst): two changes in one tick look like one. What changed so
shortly before it was read may have changed once more since, unseen, and is read again after this time."""


class Source(StrEnum):
    """Where a model comes from."""

    BUILTIN = "builtin"
    LOCAL = "local"
    HUB = "hub"
    CONFIG = "config"


@dataclass(frozen=True, slots=True)
class Installed:
    """One model that is there. Its files have not been looked at."""

    name: str
    source: Source
    path: Path
    revision: str | None = None
    repo: HubRepo | None = None
    """Of a hub model: all its snapshots."""


Mark = tuple[int, int, int] | None
"""What a path looked like: modified (ns), size, inode; None: it was not there."""


class Index:
    """The installed models at one moment. Never changed: a new one replaces it."""

    def __init__(self, settings: Settings) -> None:
        started_ns = time.time_ns()
        self.installed: dict[str, Installed] = {}
        self.aliases: dict[str, str] = {}
        """Name -> the name that it stands for."""
        self._roots = _roots()
        # Marks are taken before the directories are read: a change in between shows as a change.
        self._marks: dict[str, Mark] = {path: _mark(path) for path in self._roots}
        for one in self._find(settings):
            self.installed.setdefault(one.name, one)
        for alias in settings.models.values():
            if alias.id is not None:
                self.aliases[alias.name] = alias.id
        newest_ns = max((mark[0] for mark in self._marks.values() if mark), default=0)
        unsettled = newest_ns > started_ns - _SETTLED_NS
        self._expires_at = time.monotonic() + _SETTLED_NS / 1e9 if unsettled else None

    @property
    def is_settled(self) -> bool:
        """False while a change may hide behind the coarse clock of the file system."""
        return self._expires_at is None

    def is_current(self, one: Installed | None = None) -> bool:
        """Whether nothing changed in the roots, nor (`one` given) in this model's snapshots. A few stats."""
        if self._expires_at is not None and time.monotonic() >= self._expires_at:
            return False
        watched = list(self._roots)
        if one is not None and one.repo is not None:
            watched += watched_paths(one.repo.path)
        return _roots() == self._roots and self._unchanged(watched)

    def is_all_current(self) -> bool:
        """Whether nothing changed anywhere. A few stats per model."""
        return self.is_current() and self._unchanged(self._marks)

    def _unchanged(self, paths: Iterable[str]) -> bool:
        return all(_mark(path) == self._marks.get(path) for path in paths)

    def _find(self, settings: Settings) -> Iterator[Installed]:
        for alias in settings.models.values():
            if alias.path is not None:
                yield Installed(alias.name, Source.CONFIG, Path(alias.path))
        yield Installed(BUILTIN_NAME, Source.BUILTIN, builtin_path())
        local_root, hub_root = (Path(root) for root in self._roots)
        yield from self._local_models(local_root)
        for folder in repo_folders(hub_root):
            self._marks |= {path: _mark(path) for path in watched_paths(folder)}
            repo = read_repo(folder)
            if repo.current is not None:
                yield Installed(repo.name, Source.HUB, repo.snapshot_path(repo.current), repo.current, repo)

    def _local_models(self, root: Path) -> Iterator[Installed]:
        for name in _subfolders(root):
            self._marks[os.fspath(root / name)] = _mark(os.fspath(root / name))
            if read_folder(root / name).looks_like_model(by_itself=True):
                yield Installed(name, Source.LOCAL, root / name)
                continue
            for below in _subfolders(root / name):
                path = root / name / below
                self._marks[os.fspath(path)] = _mark(os.fspath(path))
                if read_folder(path).looks_like_model():
                    yield Installed(f"{name}/{below}", Source.LOCAL, path)


def _roots() -> tuple[str, str]:
    """Local models' folder and the hub's cache, as the environment says now."""
    return os.fspath(models_dir()), os.fspath(hub_cache_dir())


def _subfolders(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(
                entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
            )
    except OSError:
        return []


def _mark(path: str) -> Mark:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
