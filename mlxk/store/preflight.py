"""All that can be known of a download before the first byte of it is written, a lock's included."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxk.config.settings import Settings
from mlxk.store.builtin import BUILTIN_NAME
from mlxk.store.cached_repo import CachedRepo
from mlxk.store.faults import Severity
from mlxk.store.folder import FileEntry, Folder
from mlxk.store.hub_cache import hub_cache_dir, read_repo
from mlxk.store.hub_client import HubClient, RemoteFile, RemoteModel
from mlxk.store.hub_errors import OperationError
from mlxk.store.hub_reference import FULL_COMMIT, SHORT_COMMIT, HubReference, parse_reference
from mlxk.store.names import DEFAULT_ORG, nearest_names
from mlxk.store.pull_files import files_to_pull, format_problem, has_code, needs_code
from mlxk.store.space import check_space, check_writable
from mlxk.store.support import architecture_faults, quantization_faults


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What a download is going to do."""

    repo: CachedRepo
    commit: str
    ref: str | None
    """Branch or tag to be remembered; None if a commit was asked for."""
    files: tuple[RemoteFile, ...]
    total_bytes: int
    present_bytes: int
    """Of these, already here: whole files, and the beginnings of others."""

    @property
    def missing_bytes(self) -> int:
        return self.total_bytes - self.present_bytes


def reference_for(text: str, settings: Settings) -> HubReference:
    """The repository that `text` means: an alias of the configuration, an id, or mlx-community/NAME.

    Raises OperationError.
    """
    if text == BUILTIN_NAME:
        raise OperationError("builtin_model", f"'{BUILTIN_NAME}' comes with mlxk: there is nothing to pull")
    alias = next((one for one in settings.models.values() if one.name == text), None)
    if alias is not None and alias.path is not None:
        raise OperationError(
            "local_model", f"the configuration says that '{text}' is the folder {alias.path}: nothing to pull"
        )
    return parse_reference(alias.id if alias is not None and alias.id else text)


def plan_pull(
    reference: HubReference, client: HubClient, *, force: bool, follow: Callable[[str, str], bool]
) -> PullPlan:
    """Asks the hub; writes nothing. `follow(old, new)`: whether to take a repository under its new name.

    Raises OperationError: model_not_found, model_renamed, revision_not_found, gated_model, unauthorized,
    hub_unreachable, not_mlx, no_space, read_only.
    """
    remote = _find(reference, client)
    is_renamed = not _is_same_name(remote.repo_id, reference.repo_id)
    if is_renamed and not follow(reference.repo_id, remote.repo_id):
        raise OperationError(
            "model_renamed",
            f"the hub has no {reference.repo_id} any more: it leads to {remote.repo_id}. If that is what "
            f"you mean: mlxk pull {remote.repo_id}",
            model=reference.repo_id,
            renamed_to=remote.repo_id,
        )
    files = _choose_files(remote, client, force=force)
    plan = plan_files(CachedRepo(hub_cache_dir(), remote.repo_id), remote.commit, reference.revision, files)
    if plan.missing_bytes or not all(plan.repo.is_placed(one, plan.commit) for one in files):
        check_writable(plan.repo.path)
        check_space(plan.repo.path, plan.missing_bytes, f"{remote.repo_id}")
    return plan


def plan_files(
    repo: CachedRepo, commit: str, revision: str | None, files: tuple[RemoteFile, ...]
) -> PullPlan:
    """The plan for these files, with what is here at this moment. Only looks at the disk."""
    is_commit = revision is not None and commit.startswith(revision.lower())
    present = sum(repo.present_bytes(one, commit) for one in files)
    total = sum(one.size_bytes for one in files)
    return PullPlan(repo, commit, None if is_commit else revision or "main", files, total, present)


def local_commit(reference: HubReference) -> str | None:
    """The snapshot of that revision that is here, for when the hub cannot be asked."""
    repo = CachedRepo(hub_cache_dir(), reference.repo_id)
    known = read_repo(repo.path)
    if reference.revision is None:
        return known.current
    by_name = repo.read_ref(reference.revision)
    if by_name in known.snapshots:
        return by_name
    found = [one for one in known.snapshots if one.startswith(reference.revision.lower())]
    is_hash = SHORT_COMMIT.fullmatch(reference.revision) or FULL_COMMIT.fullmatch(reference.revision)
    return found[0] if len(found) == 1 and is_hash else None


def _find(reference: HubReference, client: HubClient) -> RemoteModel:
    try:
        return client.model(reference.repo_id, reference.revision)
    except OperationError as error:
        if error.type == "model_not_found":
            raise _with_suggestions(error, reference, client) from error
        if error.type == "revision_not_found" and reference.revision:
            return _find_short_commit(reference, client)
        raise


def _find_short_commit(reference: HubReference, client: HubClient) -> RemoteModel:
    revision = reference.revision or ""
    found: list[str] = []
    if SHORT_COMMIT.fullmatch(revision.lower()):
        found = [one for one in client.commits(reference.repo_id) if one.startswith(revision.lower())]
    if len(found) > 1:
        raise OperationError(
            "ambiguous_model",
            f"{revision} is the beginning of several commits of {reference.repo_id}: write more of it",
            matches=found[:5],
        )
    if not found:
        raise OperationError(
            "revision_not_found",
            f"{reference.repo_id} has no branch, tag or commit '{revision}': see "
            f"{client.page(reference.repo_id)}/commits/main",
            model=reference.repo_id,
            revision=revision,
        )
    return client.model(reference.repo_id, found[0])


def _with_suggestions(error: OperationError, reference: HubReference, client: HubClient) -> OperationError:
    """The same error, with names that the hub has. They are shown, never taken."""
    name = reference.repo_id.partition("/")[2]
    # The hub looks for parts of names, so that a typo finds nothing: half of the name is then a guess.
    found = client.search(name, DEFAULT_ORG) or client.search(name)
    found = found or client.search(name[: max(3, len(name) // 2)], DEFAULT_ORG)
    found = found or client.search(name[len(name) // 2 :], DEFAULT_ORG)
    near = nearest_names(reference.repo_id, found) or tuple(found[:3])
    hint = f". Did you mean {' or '.join(near)}?" if near else ""
    return OperationError(error.type, f"{error}{hint}", **{**error.details, "nearest": list(near)})


def _choose_files(remote: RemoteModel, client: HubClient, *, force: bool) -> tuple[RemoteFile, ...]:
    """Also the proof that files of this repository are given to us: a gated one shows its list to anybody."""
    if not remote.files:
        raise OperationError(
            "not_mlx", f"{remote.repo_id} is empty at {remote.commit[:12]}", model=remote.repo_id
        )
    config = _read_config(remote, "config.json", client)
    problem = format_problem(remote.repo_id, remote.files, config)
    if problem is None:
        problem = _unsupported(remote, config)
    if problem is not None and not force:
        raise OperationError(
            "not_mlx", f"{problem}. (`--force` downloads all its files nevertheless)", model=remote.repo_id
        )
    if not any(one.name == "config.json" for one in remote.files):
        client.check_access(remote.repo_id, remote.files[0].name, remote.commit)
    with_code = has_code(remote.files) and (
        needs_code(config) or needs_code(_read_config(remote, "tokenizer_config.json", client))
    )
    return tuple(files_to_pull(remote.files, with_code=with_code, everything=problem is not None))


def _read_config(remote: RemoteModel, name: str, client: HubClient) -> dict[str, Any]:
    if not any(one.name == name for one in remote.files):
        return {}
    try:
        value = json.loads(client.small_file(remote.repo_id, name, remote.commit))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _unsupported(remote: RemoteModel, config: dict[str, Any]) -> str | None:
    """Hours of download for a model that mlx_lm does not know, or a quantization that this MLX cannot
    compute, are better not begun."""
    listing = Folder(
        Path(remote.repo_id), tuple(FileEntry(one.name, one.size_bytes, 0) for one in remote.files)
    )
    faults = (*architecture_faults(listing, config, trusted=True), *quantization_faults(config))
    found = next((one for one in faults if one.severity is Severity.UNSUPPORTED), None)
    return f"{remote.repo_id}: {found.sentence}" if found else None


def _is_same_name(one: str, other: str) -> bool:
    """The hub does not tell upper from lower case; this is its spelling, not another repository."""
    return one.casefold() == other.casefold()
