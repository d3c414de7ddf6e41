"""What the hub of the tests knows, and how it behaves: repositories, faults, a record of what was asked."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import Any

LFS_FROM_BYTES = 4096
"""From here on files are "large": their address redirects to the storage, and their etag is a SHA-256."""
GOOD_TOKEN = "hf_good"


@dataclass
class Fault:
    """A bad day of one file or address. `times`: for how many requests."""

    status: int | None = None
    retry_after: str | None = None
    cut_after: int | None = None
    """Break the connection after so many bytes of the body."""
    announce: int | None = None
    """Another length than the file has, in HEAD and GET."""
    content: bytes | None = None
    """Other bytes than announced."""
    hold_after: int | None = None
    """Send so many bytes, then wait for `Hub.release`."""
    ignore_range: bool = False
    times: int = 10**9


@dataclass
class Repo:
    """A model's repository. All files of all commits; `branches` also holds the tags."""

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    gated: str | bool = False
    private: bool = False
    disabled: bool = False

    def commit_of(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


@dataclass(frozen=True)
class Request:
    method: str
    host: str
    path: str
    range: str | None
    token: str | None
    agent: str


@dataclass
class Hub:
    url: str
    storage_url: str
    """Another origin, as the hub's content network is."""
    repos: dict[str, Repo] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    """By the end of the address: "model.safetensors", "/api/models/a/b". Not of the storage."""
    storage_faults: dict[str, Fault] = field(default_factory=dict)
    """By the end of the address, of the storage that large files come from."""
    requests: list[Request] = field(default_factory=list)
    uploads: list[dict[str, Any]] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)
    allowed: set[str] = field(default_factory=set)
    """Tokens with access to gated and private repositories."""
    bad_tokens: set[str] = field(default_factory=set)
    """Expired ones."""
    claimed_sizes: dict[str, int] = field(default_factory=dict)
    """What the list of files says of a file instead of the truth."""
    etags: dict[str, str] = field(default_factory=dict)
    """Etags of small files instead of the true ones."""
    release: threading.Event = field(default_factory=threading.Event)
    holding: threading.Event = field(default_factory=threading.Event)
    """Set when an answer has come to its `hold_after`."""

    def add(self, name: str, files: dict[str, bytes], **facts: Any) -> str:
        """One more commit on `main`. Returns its hash."""
        digest = hashlib.sha1(name.encode())
        for path, data in sorted(files.items()):
            digest.update(path.encode() + data)
        repo = self.repos.setdefault(name, Repo({}, {}))
        commit = digest.hexdigest()
        repo.commits[commit] = files
        repo.branches["main"] = commit
        for key, value in facts.items():
            setattr(repo, key, value)
        return commit

    def gets(self, ending: str) -> list[Request]:
        return [one for one in self.requests if one.method == "GET" and one.path.endswith(ending)]

    def fault_of(self, path: str) -> Fault | None:
        faults = self.storage_faults if path.startswith("/storage/") else self.faults
        for ending, fault in faults.items():
            if path.endswith(ending) and fault.times > 0:
                fault.times -= 1
                return fault
        return None


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def etag_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if is_large(data) else git_hash(data)


def is_large(data: bytes) -> bool:
    return len(data) >= LFS_FROM_BYTES
