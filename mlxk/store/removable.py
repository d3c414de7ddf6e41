"""Which thing on disk a name given to `mlxk rm` means. Stricter than the names of the other verbs, and wider:
what is broken, half downloaded or half removed can be named too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxk.config.paths import models_dir
from mlxk.config.settings import Settings
from mlxk.store.builtin import BUILTIN_NAME
from mlxk.store.cached_repo import CachedRepo
from mlxk.store.catalog import Catalog, ModelRef
from mlxk.store.errors import AmbiguousModelError, UnknownModelError
from mlxk.store.folder import read_folder
from mlxk.store.hub_cache import HubRepo, hub_cache_dir, read_repo, repo_folders
from mlxk.store.hub_errors import OperationError
from mlxk.store.index import Source
from mlxk.store.names import DEFAULT_ORG, is_plausible, names_holding, nearest_names, split_revision
from mlxk.store.removal import (
    Removal,
    leftover_removals,
    local_removal,
    repository_removal,
    snapshot_removal,
)


@dataclass(frozen=True, slots=True)
class Chosen:
    removal: Removal
    is_exact: bool
    """False: the name was only a part of it, so that a person should confirm."""


class Removables:
    """Everything that can be removed, at the moment of the question."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._aliases = {one.name: one.id or one.path for one in settings.models.values()}
        self._repos = {repo.name: repo for repo in map(read_repo, repo_folders(hub_cache_dir()))}
        self._refs = Catalog(settings).models()
        self._local = {ref.name: ref for ref in self._refs if ref.source is Source.LOCAL}

    def choose(self, name: str) -> Chosen:
        """Raises UnknownModelError, AmbiguousModelError, or OperationError `not_removable`."""
        if not is_plausible(name):
            raise UnknownModelError(name)
        self._refuse_what_is_not_ours(name)
        for one in (name, f"{DEFAULT_ORG}/{name}"):
            if removal := self._exact(one):
                return Chosen(removal, True)
        self._refuse_a_version(name)
        names = sorted({*self._repos, *self._local})
        matches = names_holding(name, names)
        if len(matches) > 1:
            raise AmbiguousModelError(name, tuple(matches))
        if matches and (removal := self._exact(matches[0])):
            return Chosen(removal, False)
        raise UnknownModelError(name, nearest_names(name, names))

    def users_of(self, removals: Sequence[Removal]) -> list[ModelRef]:
        """The models, aliases included, that lose their files by these."""
        return [ref for ref in self._refs if any(one.holds(ref.path) for one in removals)]

    def aliases_of(self, removal: Removal) -> list[str]:
        """Names of the configuration that will lead nowhere."""
        return [
            ref.name
            for ref in self._refs
            if ref.source is Source.CONFIG and ref.name in self._aliases and removal.holds(ref.path)
        ]

    def _exact(self, name: str) -> Removal | None:
        if name in self._local:
            _refuse_a_shelf(name, models_dir() / name)
            return local_removal(name, models_dir() / name)
        if repo := self._repos.get(name):
            return repository_removal(name, repo.path, len(repo.snapshots))
        label = CachedRepo(hub_cache_dir(), name).folder_name
        for one in (label, name.replace("/", "--")):
            if left := leftover_removals(one):
                return left[0]
        parts = split_revision(name)
        repo = self._repos.get(parts[0]) if parts else None
        if repo is None or parts is None:
            return None
        revision = _revision_of(repo, name.rpartition("@")[2])
        return snapshot_removal(repo, revision) if revision else None

    def _refuse_what_is_not_ours(self, name: str) -> None:
        if name == BUILTIN_NAME:
            raise OperationError(
                "not_removable", f"'{BUILTIN_NAME}' comes with mlxk and cannot be removed", model=name
            )
        if name not in self._aliases or name in self._repos:
            return
        target, alias = self._aliases[name], next(x for x in self._settings.models.values() if x.name == name)
        if alias.path is not None:
            raise OperationError(
                "not_removable",
                f"'{name}' is the folder {target}, which the configuration names and mlxk does not own. "
                "Remove the section from config.toml, and the folder yourself",
                model=name,
            )
        if alias.id is not None:
            raise OperationError(
                "not_removable",
                f"'{name}' is an alias of the configuration for {target}. Remove the model with `mlxk rm "
                f"{target}`, and the alias from config.toml",
                model=name,
                target=str(target),
            )

    def _refuse_a_version(self, name: str) -> None:
        """`list` shows an ID of local models too, but there is only ever one of each."""
        parts = split_revision(name)
        if parts is None:
            return
        self._refuse_what_is_not_ours(parts[0])
        for base in (parts[0], f"{DEFAULT_ORG}/{parts[0]}"):
            if base in self._local and base not in self._repos:
                raise OperationError(
                    "not_removable",
                    f"'{base}' is a local folder, and has no snapshots. To remove all of it: mlxk rm {base}",
                    model=name,
                )


def _refuse_a_shelf(name: str, path: Path) -> None:
    """A stray config.json makes a model of the folder that all models of an organisation are in."""
    if path.is_symlink() or read_folder(path).weights():
        return
    below = [one.name for one in sorted(path.iterdir()) if one.is_dir() and _is_whole_model(one)]
    if below:
        raise OperationError(
            "not_removable",
            f"{path} holds no weights but other models ({', '.join(below[:3])}): remove those by name, or "
            f"what makes it look like a model (config.json, tokenizer.json, ...) by hand",
            model=name,
        )


def _is_whole_model(path: Path) -> bool:
    folder = read_folder(path)
    return folder.named("config.json") is not None and bool(folder.weights())


def _revision_of(repo: HubRepo, text: str) -> str | None:
    """The snapshot that begins with these digits, or that the branch or tag of this name means."""
    meant = CachedRepo(hub_cache_dir(), repo.name).read_ref(text) if "/" not in text else None
    if meant in repo.snapshots:
        return meant
    found = [one for one in repo.snapshots if one.startswith(text.lower())]
    if len(found) > 1:
        raise AmbiguousModelError(f"{repo.name}@{text}", tuple(f"{repo.name}@{one[:12]}" for one in found))
    return found[0] if found else None
