"""How much the hub's cache holds, what was never finished in it, and what cannot be read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlxk.store.hub_cache import hub_cache_dir

RUNNING_S = 300.0
"""An unfinished file that has grown so recently belongs to a download that still runs."""
_UNFINISHED = ".incomplete"


@dataclass(slots=True)
class CacheSurvey:
    """What was found under `root`."""

    root: Path
    exists: bool
    n_repos: int = 0
    """Folders of models; data sets and spaces count in `size_bytes` only."""
    size_bytes: int = 0
    unfinished: list[Path] = field(default_factory=list)
    """Parts of downloads that were broken off. The hub resumes some of them, and removes none."""
    unfinished_bytes: int = 0
    running: int = 0
    """Downloads that seem to run at this moment."""
    unreadable: list[str] = field(default_factory=list)
    """ "PATH (why)"."""
    is_whole: bool = True
    """False: the time was up before all was counted."""


def survey_cache(limit_s: float) -> CacheSurvey:
    """Looks for at most about `limit_s` seconds: a cache on a network disk can be very slow."""
    root = hub_cache_dir()
    survey = CacheSurvey(root, exists=root.exists())
    if survey.exists:
        deadline = time.monotonic() + limit_s
        now = time.time()
        for entry in _walk(root, survey, deadline):
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # a download has just renamed it
            survey.size_bytes += facts.st_size
            if not entry.name.endswith(_UNFINISHED):
                continue
            if now - facts.st_mtime < RUNNING_S:
                survey.running += 1
            else:
                survey.unfinished.append(Path(entry.path))
                survey.unfinished_bytes += facts.st_size
    return survey


def _walk(root: Path, survey: CacheSurvey, deadline: float) -> Iterator[os.DirEntry[str]]:
    """All files, links left out: a snapshot's links point at blobs that are counted themselves."""
    folders = [os.fspath(root)]
    while folders:
        if time.monotonic() > deadline:
            survey.is_whole = False
            return
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                        survey.n_repos += entry.name.startswith("models--")
                    elif not entry.is_symlink():
                        yield entry
        except OSError as error:
            survey.unreadable.append(f"{folder} ({error.strerror or error})")
