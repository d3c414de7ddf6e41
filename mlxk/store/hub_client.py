"""What we ask the hub, through `huggingface_hub`.

It is imported at the first question and never before: the import takes a quarter of a second, and fixes what
the environment says (HF_ENDPOINT, HF_HUB_OFFLINE) at that moment.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from mlxk import __version__
from mlxk.store.hub_bar import ForwardingBar
from mlxk.store.hub_errors import OperationError, TransferError
from mlxk.store.hub_faults import as_error
from mlxk.store.hub_reference import FULL_COMMIT
from mlxk.store.retries import RetryPolicy, with_retries

Result = TypeVar("Result")

_LONGEST_SMALL_FILE = 64 * 1024 * 1024
_API_TIMEOUT_S = 20.0
_ETAG = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    name: str
    """Relative to the repository, with / between parts."""
    size_bytes: int
    etag: str
    """Name of its blob in the cache: SHA-256 of a large file, git's hash of a small one."""


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A repository at one commit, as the hub describes it."""

    repo_id: str
    """As the hub spells it now; not what was asked for if it was renamed."""
    commit: str
    files: tuple[RemoteFile, ...]
    gated: bool


class HubClient:
    """`endpoint` and `offline`: for tests within one process; else as the environment says."""

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        offline: bool | None = None,
        policy: RetryPolicy | None = None,
        cancel: threading.Event | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        chosen = endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        self.endpoint = chosen.rstrip("/")
        self._said_offline = offline
        self.policy = policy or RetryPolicy()
        self.reached = False
        """The hub has answered once: a connection that is refused later is an outage, not a wrong address."""
        self.cancel = cancel or threading.Event()
        self._note = note or (lambda _text: None)

    @cached_property
    def _hub(self) -> Any:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        import huggingface_hub
        from huggingface_hub.utils import logging

        logging.set_verbosity_error()  # what is worth a word is said by us
        return huggingface_hub

    def is_offline(self) -> bool:
        """Whether the environment forbids connections."""
        if self._said_offline is not None:
            return self._said_offline
        forbidden: bool = self._hub.constants.is_offline_mode()
        return forbidden

    @cached_property
    def api(self) -> Any:
        """huggingface_hub's `HfApi`."""
        return self._hub.HfApi(endpoint=self.endpoint, library_name="mlxk", library_version=__version__)

    def has_token(self) -> bool:
        """Whether huggingface_hub finds one: HF_TOKEN, or what `hf auth login` stored."""
        found: str | None = self._hub.get_token()
        return found is not None

    def page(self, repo_id: str) -> str:
        return f"{self.endpoint}/{repo_id}"

    def file_url(self, repo_id: str, name: str, commit: str) -> str:
        url: str = self._hub.hf_hub_url(repo_id, name, revision=commit, endpoint=self.endpoint)
        return url

    def headers(self) -> dict[str, str]:
        headers: dict[str, str] = self.api._build_hf_headers()
        return headers | {"Accept-Encoding": "identity"}  # a compressed answer cannot be resumed

    def session(self) -> Any:
        """The `httpx.Client` of huggingface_hub, with its proxies and certificates."""
        return self._hub.get_session()

    def ask(self, request: Callable[[], Result], repo_id: str) -> Result:
        """One request, again as the policy says. Raises OperationError."""

        def attempt() -> Result:
            try:
                result = request()
            except Exception as error:
                raise as_error(error, repo_id, self) from error
            self.reached = True
            return result

        if self.is_offline():
            raise OperationError(
                "hub_unreachable",
                "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids every connection to the hub; "
                "unset it to download",
                offline=True,
            )
        try:
            return with_retries(attempt, self.policy, self.cancel, self._note)
        except TransferError as error:
            raise OperationError("hub_unreachable", f"{error}. Try again later") from error

    def model(self, repo_id: str, revision: str | None) -> RemoteModel:
        """Raises OperationError: model_not_found, revision_not_found, gated_model, hub_unreachable, …"""
        info = self.ask(
            lambda: self.api.model_info(
                repo_id, revision=revision, files_metadata=True, timeout=_API_TIMEOUT_S
            ),
            repo_id,
        )
        files = tuple(
            RemoteFile(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else one.blob_id or "")
            for one in info.siblings or ()
        )
        _check_commit(info.sha)
        for file in files:
            _check_file(file)
        return RemoteModel(info.id, info.sha, files, bool(info.gated))

    def commits(self, repo_id: str) -> list[str]:
        """All commits of `main` and of the other branches and tags' ends; newest first."""
        refs = self.ask(lambda: self.api.list_repo_refs(repo_id), repo_id)
        ends = [one.target_commit for one in (*refs.branches, *refs.tags)]
        history = self.ask(lambda: self.api.list_repo_commits(repo_id), repo_id)
        return list(dict.fromkeys([*(one.commit_id for one in history), *ends]))

    def search(self, words: str, author: str | None = None) -> list[str]:
        """Ids of models that the hub finds for these words, best known first; empty if it cannot be asked:
        a suggestion is not worth an error."""
        try:
            found = self.api.list_models(search=words, author=author, limit=20)
            return [one.id for one in found]
        except Exception:
            return []

    def small_file(self, repo_id: str, name: str, commit: str) -> bytes:
        """Content of a file, kept in memory: nothing is written. Raises OperationError."""
        url, headers = self.file_url(repo_id, name, commit), self.headers()

        def request() -> bytes:
            from huggingface_hub.utils import hf_raise_for_status

            response = self.session().get(url, headers=headers, timeout=_API_TIMEOUT_S)
            hf_raise_for_status(response)
            data: bytes = response.content
            return data[:_LONGEST_SMALL_FILE]

        return self.ask(request, repo_id)

    def check_access(self, repo_id: str, name: str, commit: str) -> None:
        """Whether that file would be given to us; asks for its head only. Raises OperationError."""
        url = self.file_url(repo_id, name, commit)
        self.ask(
            lambda: self._hub.get_hf_file_metadata(url, headers=self.headers(), timeout=_API_TIMEOUT_S),
            repo_id,
        )

    def remote_file(self, repo_id: str, file: RemoteFile, commit: str) -> RemoteFile:
        """The file as its own address describes it, which is what names its blob in the cache."""
        url = self.file_url(repo_id, file.name, commit)
        facts = self.ask(
            lambda: self._hub.get_hf_file_metadata(url, headers=self.headers(), timeout=_API_TIMEOUT_S),
            repo_id,
        )
        size = file.size_bytes if facts.size is None else facts.size
        known = RemoteFile(file.name, size, facts.etag or file.etag)
        _check_file(known)
        return known

    def place(self, repo_id: str, name: str, commit: str, root: Path, moved: Callable[[int], None]) -> Path:
        """Puts the file into its snapshot: huggingface_hub makes the link (or a copy, where the file system
        has no links) to the blob that is there, and downloads what is not. Raises OperationError."""
        path = self.ask(
            lambda: self._hub.hf_hub_download(
                repo_id,
                name,
                revision=commit,
                cache_dir=root,
                endpoint=self.endpoint,
                library_name="mlxk",
                library_version=__version__,
                tqdm_class=partial(ForwardingBar, moved),
            ),
            repo_id,
        )
        return Path(path)


def _check_file(file: RemoteFile) -> None:
    """A name or an etag becomes a path in the cache, and HF_ENDPOINT may be anybody's: what would lead out of
    it is refused."""
    parts = file.name.split("/")
    if "\\" in file.name or not file.name.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise OperationError(
            "hub_error", f"the hub names a file {file.name[:200]!r}, which is no name for one"
        )
    if not _ETAG.fullmatch(file.etag):
        raise OperationError("hub_error", f"the hub gives {file.name} the etag {file.etag[:200]!r}")
    if file.size_bytes < 0:
        raise OperationError("hub_error", f"the hub gives {file.name} {file.size_bytes} bytes")


def _check_commit(commit: Any) -> None:
    if not isinstance(commit, str) or not FULL_COMMIT.fullmatch(commit):
        raise OperationError("hub_error", f"the hub names a commit {str(commit)[:200]!r}, which is no commit")
