"""What models were seen to take, remembered across runs in one JSON file of the home.

A model's first load is judged by the size of its weights; every later one by what it took before. Nothing
here may hurt: a file that is missing, broken, foreign or of another version is an empty one, and one that
cannot be written is a line in the log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec

log = logging.getLogger("mlxk.pool")

VERSION = 1
KEPT_RUNS = 5
"""The largest of so many runs counts: one in which a model had little to do must not make it look small."""
KEPT_MODELS = 512
LARGEST_FILE_BYTES = 1 << 20
CHANGE = 0.01
"""A peak that has grown by less is not worth a write."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a measurement holds for: another size, engine or cache budget is another model."""

    name: str
    id: str
    size_bytes: int
    engine: str
    cache_bytes: int

    @property
    def key(self) -> str:
        return f"{self.name} {self.id} {self.size_bytes} {self.engine} {self.cache_bytes}"


class Measurement(msgspec.Struct):
    working_bytes: list[int] = []
    """Peak of a run without what the prefix cache held then; the last run's is the last."""
    load_s: float | None = None
    """From the decision to load to READY, the last time."""


class _File(msgspec.Struct):
    version: int
    models: dict[str, Measurement]
    """In the order of their use, the oldest first."""


class MeasuredPeaks:
    """One per front. `path` None: nothing outlives it."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._models = _read(path) if path is not None else {}
        self._touched: set[str] = set()
        self._dirty = False
        self._complained = False
        self._writing = threading.Lock()

    def working_bytes(self, kind: Kind) -> int | None:
        """The peak to expect, without the prefix cache; None if it never ran."""
        found = self._models.get(kind.key)
        return max(found.working_bytes, default=0) or None if found else None

    def load_s(self, kind: Kind) -> float | None:
        found = self._models.get(kind.key)
        return found.load_s if found else None

    def begin_run(self, kind: Kind, load_s: float) -> None:
        """It has been loaded, which took so long."""
        entry = self._entry(kind)
        entry.load_s = round(load_s, 3)
        entry.working_bytes = [*entry.working_bytes[-KEPT_RUNS + 1 :], 0]
        self._dirty = True

    def note_peak(self, kind: Kind, working_bytes: int) -> None:
        """Of the run that goes on. Only a higher one is news."""
        entry = self._entry(kind)
        if not entry.working_bytes:
            entry.working_bytes = [0]
        if working_bytes > entry.working_bytes[-1] * (1 + CHANGE):
            entry.working_bytes[-1] = working_bytes
            self._dirty = True

    def _entry(self, kind: Kind) -> Measurement:
        entry = self._models.pop(kind.key, None) or Measurement()
        self._models[kind.key] = entry  # last: used last
        self._touched.add(kind.key)
        return entry

    def take_unsaved(self) -> dict[str, Measurement] | None:
        """What this server has measured, the last used last, if there is news. Touches no file."""
        if self._path is None or not self._dirty:
            return None
        self._dirty = False
        mine = ((key, entry) for key, entry in self._models.items() if key in self._touched)
        return {key: Measurement([*entry.working_bytes], entry.load_s) for key, entry in mine}

    def write(self, mine: dict[str, Measurement]) -> None:
        """Replace the file in one step; what others have written there meanwhile is kept. Safe in another
        thread; a full disk or so is a line in the log."""
        assert self._path is not None
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        with self._writing:
            theirs = {key: entry for key, entry in _read(self._path).items() if key not in mine}
            for key in list(theirs)[: max(0, len(theirs) + len(mine) - KEPT_MODELS)]:
                del theirs[key]
            content = msgspec.json.encode(_File(VERSION, {**theirs, **mine}))
            try:
                with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(msgspec.json.format(content, indent=1))
                os.replace(new, self._path)
            except OSError as error:
                if not self._complained:
                    log.warning("what models take cannot be remembered in %s: %s", self._path, error)
                    self._complained = True
                _forget_file(new)

    def save(self) -> None:
        if (news := self.take_unsaved()) is not None:
            self.write(news)


def _forget_file(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _read(path: Path) -> dict[str, Measurement]:
    """{} for a file that is not one of ours, with all that can be wrong with it."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
        if len(content) > LARGEST_FILE_BYTES:
            raise ValueError("it is too large")
        found = msgspec.json.decode(content, type=_File)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        log.warning("%s is not used: %s", path, error)
        return {}
    if found.version != VERSION:
        return {}
    return {key: entry for key, entry in found.models.items() if _is_sane(entry)}


def _is_sane(entry: Measurement) -> bool:
    return all(0 <= n < 1 << 50 for n in entry.working_bytes) and not (entry.load_s and entry.load_s < 0)
