"""Downloads a model: preflight, then file by file into the cache, then a look whether it is whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlxk.store.cached_repo import size_of
from mlxk.store.hub_cache import hub_cache_dir
from mlxk.store.hub_client import HubClient
from mlxk.store.hub_errors import OperationError
from mlxk.store.hub_reference import FULL_COMMIT, HubReference
from mlxk.store.inspection import inspect_model
from mlxk.store.model_download import PullProgress, download, drop_altered, is_complete
from mlxk.store.preflight import PullPlan, local_commit, plan_pull


@dataclass(frozen=True, slots=True)
class PullResult:
    name: str
    """As the other verbs know it."""
    repo_id: str
    commit: str
    path: Path
    n_files: int
    size_bytes: int
    downloaded_bytes: int
    """What came over the line just now."""
    took_s: float
    was_complete: bool
    is_checked: bool
    """False: the hub could not be asked whether there is something newer."""
    problem: str | None
    """Why it cannot be used although everything came; None if it can."""


def pull(
    reference: HubReference,
    client: HubClient,
    progress: PullProgress,
    *,
    force: bool = False,
    follow: Callable[[str, str], bool] = lambda _old, _new: False,
) -> PullResult:
    """Has that model in the cache when it returns.

    Raises OperationError. A KeyboardInterrupt leaves what came, for the next call to go on with.
    """
    began = time.monotonic()
    if known := _known_complete(reference):
        return known
    try:
        plan = plan_pull(reference, client, force=force, follow=follow)
    except OperationError as error:
        if error.details.get("offline") and (here := _complete_here(reference)):
            return here
        raise
    was_complete = is_complete(plan)
    received = 0 if was_complete else download(plan, client, progress)
    path = plan.repo.snapshot(plan.commit)
    if not inspect_model(path).healthy:
        progress.note(
            f"{plan.repo.repo_id} is damaged although all its files are here; checking each of them"
        )
        client.cancel.clear()
        if drop_altered(plan, client, progress):
            was_complete = False
            client.cancel.clear()
            received += download(plan, client, progress)
    if plan.ref is not None:
        plan.repo.write_ref(plan.ref, plan.commit)
    return _result(reference, plan, received, began, was_complete=was_complete)


def _known_complete(reference: HubReference) -> PullResult | None:
    """A full commit never changes: if it is here and whole, nobody needs to be asked."""
    if reference.revision is None or not FULL_COMMIT.fullmatch(reference.revision):
        return None
    return _complete_here(reference, is_checked=True)


def _complete_here(reference: HubReference, *, is_checked: bool = False) -> PullResult | None:
    commit = local_commit(reference)
    if commit is None:
        return None
    path = hub_cache_dir() / f"models--{reference.repo_id.replace('/', '--')}" / "snapshots" / commit
    if not inspect_model(path).healthy:
        return None
    files = [one for one in path.rglob("*") if one.is_file()]
    size = sum(size_of(one) or 0 for one in files)
    name = _name(reference.repo_id, commit, is_current=local_commit(HubReference(reference.repo_id, None)))
    return PullResult(name, reference.repo_id, commit, path, len(files), size, 0, 0.0, True, is_checked, None)


def _result(
    reference: HubReference, plan: PullPlan, received: int, began: float, *, was_complete: bool
) -> PullResult:
    path = plan.repo.snapshot(plan.commit)
    facts = inspect_model(path)
    current = local_commit(HubReference(plan.repo.repo_id, None))
    return PullResult(
        name=_name(plan.repo.repo_id, plan.commit, is_current=current),
        repo_id=plan.repo.repo_id,
        commit=plan.commit,
        path=path,
        n_files=len(plan.files),
        size_bytes=plan.total_bytes,
        downloaded_bytes=received,
        took_s=time.monotonic() - began,
        was_complete=was_complete,
        is_checked=True,
        problem=None if facts.usable else facts.reason,
    )


def _name(repo_id: str, commit: str, *, is_current: str | None) -> str:
    return repo_id if is_current == commit else f"{repo_id}@{commit[:12]}"
