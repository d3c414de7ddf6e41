"""The Hugging Face cache as `huggingface_hub` lays it out:

models--ORG--NAME/refs/main             the hash that `main` meant at the last download
models--ORG--NAME/snapshots/HASH/...    links into ../../blobs
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mlxk.store.folder import open_regular

_PREFIX = "models--"


@dataclass(frozen=True, slots=True)
class HubRepo:
    """One repository in the cache; it may still have no snapshot (a download that has only begun)."""

    name: str
    """ORG/NAME, or NAME for the hub's oldest models."""
    path: Path
    snapshots: tuple[str, ...]
    """Hashes, sorted."""
    current: str | None
    """What `main` means; without a usable refs/main, the most recently modified one. None: no snapshot."""

    def snapshot_path(self, revision: str) -> Path:
        return self.path / "snapshots" / revision


def hub_cache_dir() -> Path:
    """Where the hub's models are, by `huggingface_hub`'s own rule, read from the environment now.

    `huggingface_hub.constants` has the answer too, but fixes it when it is first imported (and the import is
    slow): a test or a caller that sets HF_HOME later would be sent to the user's real cache. A unit test
    compares this rule with theirs.
    """
    environ = os.environ
    user_cache = environ.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
    hf_home = _expanded(environ.get("HF_HOME", os.path.join(user_cache, "huggingface")))
    legacy = environ.get("HUGGINGFACE_HUB_CACHE", os.path.join(hf_home, "hub"))
    return Path(_expanded(environ.get("HF_HUB_CACHE", legacy)))


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))


def repo_folders(root: Path) -> list[Path]:
    """The folders of all model repositories under `root`; empty if there is no such folder."""
    try:
        return [
            root / name for name in sorted(os.listdir(root)) if name.removeprefix(_PREFIX) not in (name, "")
        ]
    except OSError:
        return []


def watched_paths(repo: Path) -> tuple[str, str]:
    """Paths that change when a snapshot of `repo` comes or goes, or when `main` moves."""
    return os.path.join(repo, "snapshots"), os.path.join(repo, "refs", "main")


def read_repo(path: Path) -> HubRepo:
    """Never raises: what cannot be read is not there."""
    snapshots: dict[str, int] = {}
    try:
        with os.scandir(path / "snapshots") as entries:
            for entry in entries:
                if entry.is_dir() and not entry.name.startswith("."):
                    snapshots[entry.name] = entry.stat().st_mtime_ns
    except OSError:
        pass
    current = _read_main(path)
    if current not in snapshots:
        current = max(snapshots, key=lambda revision: (snapshots[revision], revision), default=None)
    name = path.name.removeprefix(_PREFIX).replace("--", "/")
    return HubRepo(name, path, tuple(sorted(snapshots)), current)


def _read_main(path: Path) -> str | None:
    try:
        with open_regular(path / "refs" / "main") as file:
            return file.read(256).decode("utf-8", errors="replace").strip()
    except OSError:
        return None
