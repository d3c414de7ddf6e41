"""Which model a name means. Asked for every HTTP request, so an answer must cost next to nothing; and a model
that was added or removed a moment ago must be known or unknown at once, without a restart.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from mlxk.config.settings import Settings
from mlxk.store.errors import AmbiguousModelError, StoreError, UnhealthyModelError, UnknownModelError
from mlxk.store.folder import Folder, open_regular, read_folder
from mlxk.store.index import Index, Installed, Source
from mlxk.store.inspection import ModelFacts, inspect_folder
from mlxk.store.inspection_cache import inspect_all
from mlxk.store.names import exact_name, is_plausible, names_holding, nearest_names, split_revision

__all__ = ["Catalog", "ModelRef", "Source"]

_SHORT_HASH = 12


@dataclass(frozen=True, slots=True)
class ModelRef:
    """An installed model, as it was on disk when it was asked for."""

    name: str
    """Canonical: "tiny", "mlx-community/Qwen3-0.6B-4bit", a local folder's name, an alias of the
    configuration; NAME@HASH for a snapshot of the hub's that is not the current one."""
    path: Path
    """Folder with config.json; of a hub model the snapshot."""
    revision: str | None
    """Hash of the snapshot; hub models only."""
    source: Source
    size_bytes: int
    """Weights on disk, links followed."""
    modified_at: float
    """Unix seconds; the newest file's. 0.0 if there is no file."""

    @property
    def id(self) -> str | None:
        """12 hex digits: of the revision, else of a digest of config.json. None if that cannot be read."""
        return self.revision[:_SHORT_HASH] if self.revision else _config_digest(self.path, self.modified_at)


class Catalog:
    """The installed models under these settings. Safe to ask from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._index: Index | None = None

    def models(self) -> list[ModelRef]:
        """All models, also those that cannot be used, sorted by name. Reads the disk anew.

        An alias whose target is not installed is left out.
        """
        return [_ref(found, folder) for found, folder in self._all()]

    def survey(self, *, keep: bool = True) -> list[tuple[ModelRef, ModelFacts]]:
        """Like `models`, with what is known of each (`inspection_cache`). `keep`: what is new goes there."""
        found = self._all()
        facts = inspect_all(((folder, self.trusts(one.name)) for one, folder in found), keep=keep)
        return [(_ref(*place), fact) for place, fact in zip(found, facts, strict=True)]

    def _all(self) -> list[tuple[Installed, Folder]]:
        index = self._rebuild()
        found: list[tuple[Installed, Folder]] = []
        for name in sorted(index.installed.keys() | index.aliases.keys()):
            with contextlib.suppress(StoreError):
                one = _look_up(index, name)
                found.append((one, read_folder(one.path)))
        return found

    def resolve(self, name: str) -> ModelRef:
        """The model that `name` means: an alias, an exact name, mlx-community/NAME, NAME@HASH with the first
        digits of a snapshot's hash, or the only model with `name` in its name (any case). Never a path.

        Raises UnknownModelError, AmbiguousModelError, or UnhealthyModelError.
        """
        found, folder = self._locate(name)
        facts = inspect_folder(folder, trusted=self.trusts(found.name))
        if facts.reason is not None:
            raise UnhealthyModelError(found.name, facts.reason)
        return _ref(found, folder)

    def locate(self, name: str) -> ModelRef:
        """Like `resolve`, for what can be done also with a model that is broken: to look at it, to remove it.

        Raises UnknownModelError, AmbiguousModelError, or (an alias that leads nowhere) UnhealthyModelError.
        """
        return _ref(*self._locate(name))

    def facts(self, ref: ModelRef) -> ModelFacts:
        """What is known of the model, and what is wrong with it under these settings."""
        return inspect_folder(read_folder(ref.path), trusted=self.trusts(ref.name))

    def trusts(self, name: str) -> bool:
        """The configuration lets this model run code of its own."""
        own = self._settings.models.get(name)
        return own is not None and own.trust_remote_code

    def unusable_aliases(self) -> list[UnhealthyModelError]:
        """Names of the configuration that lead to no installed model."""
        index = self._rebuild()
        found: list[UnhealthyModelError] = []
        for alias in sorted(index.aliases):
            try:
                _look_up(index, alias)
            except UnhealthyModelError as error:
                found.append(error)
            except StoreError as error:
                found.append(UnhealthyModelError(alias, str(error)))
        return found

    def _locate(self, name: str) -> tuple[Installed, Folder]:
        if not is_plausible(name):
            raise UnknownModelError(name)
        found = self._find(name)
        folder = read_folder(found.path)
        if not folder.files:  # removed since
            found = _look_up(self._rebuild(), name)
            folder = read_folder(found.path)
        return found, folder

    def _find(self, name: str) -> Installed:
        index = self._index or self._rebuild()
        exact = exact_name(name, index.aliases, index.installed)
        one = index.installed.get(exact) if exact is not None and exact not in index.aliases else None
        if one is not None and index.is_current(one):
            return one  # nearly every request ends here, after four stats
        # What is no exact name can change its meaning by a change to any model.
        if not index.is_all_current():
            index = self._rebuild()
        try:
            return _look_up(index, name)
        except UnknownModelError:
            if index.is_settled:
                raise
            return _look_up(self._rebuild(), name)

    def _rebuild(self) -> Index:
        self._index = index = Index(self._settings)
        return index


def _look_up(index: Index, name: str, avoid: frozenset[str] = frozenset()) -> Installed:
    """`avoid`: aliases that are being followed. Without it two that name each other would never end."""
    aliases = index.aliases.keys() - avoid if avoid else index.aliases.keys()
    exact = exact_name(name, aliases, index.installed)
    if exact is None:
        if found := _look_up_revision(index, name, avoid):
            return found
        names = aliases | index.installed.keys()
        matches = names_holding(name, names)
        if not matches:
            raise UnknownModelError(name, nearest_names(name, sorted(names)))
        if len(matches) > 1:
            raise AmbiguousModelError(name, tuple(matches))
        exact = matches[0]
    return _follow_alias(index, exact, avoid) if exact in aliases else index.installed[exact]


def _follow_alias(index: Index, alias: str, avoid: frozenset[str]) -> Installed:
    target = index.aliases[alias]
    try:
        found = _look_up(index, target, avoid | {alias})
    except AmbiguousModelError as error:
        reason = (
            f"the configuration sets its id to '{target}', which fits several: {', '.join(error.matches)}"
        )
        raise UnhealthyModelError(alias, reason) from error
    except StoreError as error:
        reason = (
            f"the configuration sets its id to '{target}', which is not installed; pull it or change the id"
        )
        raise UnhealthyModelError(alias, reason) from error
    return replace(found, name=alias, source=Source.CONFIG)


def _look_up_revision(index: Index, name: str, avoid: frozenset[str]) -> Installed | None:
    parts = split_revision(name)
    if parts is None:
        return None
    base, digits = parts
    try:
        one = _look_up(index, base, avoid)
    except UnknownModelError:
        return None
    if one.repo is None:
        own = _ref(one, read_folder(one.path)).id
        hits = [""] if own is not None and own.startswith(digits) else []
    else:
        hits = [revision for revision in one.repo.snapshots if revision.startswith(digits)]
    if not hits:
        raise UnknownModelError(name, (one.name,))
    if len(hits) > 1:
        raise AmbiguousModelError(name, tuple(f"{one.name}@{revision[:_SHORT_HASH]}" for revision in hits))
    if one.repo is None or hits[0] == one.revision:
        return one
    path, short_name = one.repo.snapshot_path(hits[0]), f"{one.name}@{hits[0][:_SHORT_HASH]}"
    return replace(one, name=short_name, path=path, revision=hits[0])


def _ref(one: Installed, folder: Folder) -> ModelRef:
    return ModelRef(
        name=one.name,
        path=one.path,
        revision=one.revision,
        source=one.source,
        size_bytes=folder.weight_bytes(),
        modified_at=folder.modified_at(),
    )


@lru_cache(maxsize=1024)
def _config_digest(path: Path, modified_at: float) -> str | None:
    """`modified_at` is part of the cache's key only."""
    import hashlib

    try:
        with open_regular(path / "config.json") as file:
            data = file.read()
    except OSError:
        return None
    return hashlib.sha256(data).hexdigest()[:_SHORT_HASH]
