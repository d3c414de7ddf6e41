"""Uploads a model's folder to the hub. Thin: `HfApi.create_repo` and `HfApi.upload_folder` do the work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlxk.store.hub_client import HubClient
from mlxk.store.hub_errors import OperationError
from mlxk.store.hub_faults import LOGIN

UPLOADED = (
    "*.json",
    "*.jsonl",
    "*.jinja",
    "*.txt",
    "*.tiktoken",
    "*.model",
    "*.safetensors",
    "*.py",
    "*.md",
    "LICENSE*",
    "NOTICE*",
)
"""What is a part of a model. Whatever else lies in its folder (notes, keys, caches) stays here."""


@dataclass(frozen=True, slots=True)
class PushPlan:
    repo_id: str
    user: str
    files: tuple[str, ...]
    size_bytes: int
    exists: bool


@dataclass(frozen=True, slots=True)
class Pushed:
    repo_id: str
    url: str
    commit: str


def plan_push(folder: Path, repo_id: str, client: HubClient) -> PushPlan:
    """Asks who we are, and what is there. Sends nothing.

    Raises OperationError: unauthorized, hub_unreachable, usage.
    """
    if not client.has_token():
        raise OperationError("unauthorized", f"an upload needs a token: {LOGIN}")
    user = client.ask(client.api.whoami, repo_id)
    owner = repo_id.partition("/")[0]
    mine = {user["name"], *(one["name"] for one in user.get("orgs", ()))}
    if owner not in mine:
        raise OperationError(
            "access_denied",
            f"your token belongs to {user['name']}, who may not write to {owner}",
            model=repo_id,
        )
    names = [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and any(file.match(one) for one in UPLOADED)
    ]
    size = sum(file.stat().st_size for file in names)
    exists = bool(client.ask(lambda: client.api.repo_exists(repo_id), repo_id))
    return PushPlan(repo_id, user["name"], tuple(file.name for file in names), size, exists)


def push(folder: Path, plan: PushPlan, client: HubClient, *, public: bool, message: str) -> Pushed:
    """Makes the repository if there is none (private unless `public`) and uploads the files as one commit."""
    if not plan.exists:
        client.ask(
            lambda: client.api.create_repo(plan.repo_id, private=not public, exist_ok=True), plan.repo_id
        )
    done = client.ask(
        lambda: client.api.upload_folder(
            repo_id=plan.repo_id,
            folder_path=folder,
            allow_patterns=list(plan.files),
            commit_message=message,
        ),
        plan.repo_id,
    )
    return Pushed(plan.repo_id, client.page(plan.repo_id), str(done.oid))
