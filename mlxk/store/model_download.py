"""Brings the files of a plan into the hub's cache: a few at once, under locks, resumable at any moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Protocol

from mlxk.store.blob_download import BlobDownload, finish, is_intact
from mlxk.store.cache_locks import blob_lock, repository_lock
from mlxk.store.cached_repo import size_of
from mlxk.store.hub_client import HubClient, RemoteFile
from mlxk.store.hub_errors import CancelledError, OperationError
from mlxk.store.preflight import PullPlan, plan_files
from mlxk.store.space import check_space

PARALLEL_FILES = 4
"""One connection seldom fills a line; more than a few are rude."""
_LARGEST_HTTP = 50_000_000_000
"""The hub gives larger files only through Xet: huggingface_hub's own download takes
them, and cannot resume."""
_GOODBYE_S = 0.5
"""A thread that waits for the line cannot be asked to end; nobody should wait for it after a Ctrl-C."""


class PullProgress(Protocol):
    """Told what happens, from several threads."""

    def planned(self, plan: PullPlan) -> None:
        """The preflight is over; the download begins."""

    def started(self, file: RemoteFile, present_bytes: int) -> None: ...

    def moved(self, file: RemoteFile, n_bytes: int) -> None:
        """So many bytes came; negative: so many have to come again."""

    def finished(self, file: RemoteFile) -> None: ...

    def note(self, text: str) -> None:
        """Something a waiting person should know: another attempt, another download."""


def is_complete(plan: PullPlan) -> bool:
    """Whether every file is in its place, with all its bytes."""
    return all(plan.repo.is_placed(one, plan.commit) for one in plan.files)


def download(plan: PullPlan, client: HubClient, progress: PullProgress) -> int:
    """All that is missing. Returns the bytes that came."""

    def waiting() -> None:
        progress.note(f"another download of {plan.repo.repo_id} is at work; waiting for it")

    with repository_lock(plan.repo.root, plan.repo.folder_name, client.cancel, waiting):
        plan = plan_files(plan.repo, plan.commit, plan.ref or plan.commit, plan.files)
        if not is_complete(plan):
            check_space(plan.repo.path, plan.missing_bytes, plan.repo.repo_id)
            progress.planned(plan)
            received = _Crew(plan, client, progress).run()
        else:
            received = 0
        if plan.ref is not None:
            plan.repo.write_ref(plan.ref, plan.commit)
        return received


def drop_altered(plan: PullPlan, client: HubClient, progress: PullProgress) -> bool:
    """Removes the files that have the length but not the contents that the hub has; whether there were any.

    Reads all of the model: for one that is damaged although nothing is missing.
    """
    path = plan.repo.snapshot(plan.commit)
    altered = False
    with repository_lock(plan.repo.root, plan.repo.folder_name, client.cancel, lambda: None):
        for file in plan.files:
            if plan.repo.is_placed(file, plan.commit) and not is_intact(
                path / file.name, file, client.cancel
            ):
                progress.note(f"{file.name} is damaged on this disk; it comes once more")
                plan.repo.drop(file, plan.commit)
                altered = True
    return altered


class _Crew:
    """A few threads that take files from one list. The first failure ends them all."""

    def __init__(self, plan: PullPlan, client: HubClient, progress: PullProgress) -> None:
        self._plan = plan
        self._client = client
        self._progress = progress
        self._todo: SimpleQueue[RemoteFile] = SimpleQueue()
        self._over: SimpleQueue[Exception | int] = SimpleQueue()
        """Of each thread: the bytes that it received, or why it ended."""

    def run(self) -> int:
        for file in self._plan.files:
            if not self._plan.repo.is_placed(file, self._plan.commit):
                self._todo.put(file)
        n_threads = min(PARALLEL_FILES, self._todo.qsize())
        # Daemons: after a Ctrl-C nobody waits for a line that is silent.
        threads = [
            threading.Thread(target=self._work, name=f"pull-{i}", daemon=True) for i in range(n_threads)
        ]
        for thread in threads:
            thread.start()
        try:
            return self._collect(n_threads)
        finally:
            self._client.cancel.set()
            deadline = time.monotonic() + _GOODBYE_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _collect(self, n_threads: int) -> int:
        received, failure = 0, None
        for _ in range(n_threads):
            end = self._next_end()
            if isinstance(end, int):
                received += end
            elif failure is None and not isinstance(end, CancelledError):
                failure = end
                self._client.cancel.set()
        if failure is not None:
            raise failure
        return received

    def _next_end(self) -> Exception | int:
        while True:  # a wait without a limit would not let a Ctrl-C through everywhere
            try:
                return self._over.get(timeout=0.5)
            except Empty:
                continue

    def _work(self) -> None:
        received = 0
        try:
            while not self._client.cancel.is_set():
                try:
                    file = self._todo.get_nowait()
                except Empty:
                    break
                received += self._bring(file)
            self._over.put(received)
        except Exception as error:
            self._over.put(_explained(error, self._plan))

    def _bring(self, file: RemoteFile) -> int:
        """One file into the snapshot. Returns the bytes that came for it."""
        plan, client = self._plan, self._client
        known = client.remote_file(plan.repo.repo_id, file, plan.commit)
        received = 0
        with self._holding(known):
            plan.repo.drop_broken(known, plan.commit)
            self._progress.started(file, plan.repo.present_bytes(known, plan.commit))
            if size_of(plan.repo.blob(known.etag)) != known.size_bytes and known.size_bytes <= _LARGEST_HTTP:
                received = self._fetch(file, known)
        # Outside of the lock: huggingface_hub takes it too.
        client.place(
            plan.repo.repo_id, file.name, plan.commit, plan.repo.root, lambda n: self._progress.moved(file, n)
        )
        if not plan.repo.is_placed(known, plan.commit):
            raise OperationError(
                "size_mismatch",
                f"{file.name} was placed with {size_of(plan.repo.snapshot(plan.commit) / file.name)} bytes, "
                f"not {known.size_bytes}",
                file=file.name,
            )
        self._progress.finished(file)
        return received

    def _fetch(self, file: RemoteFile, known: RemoteFile) -> int:
        repo = self._plan.repo
        partial = repo.partial(known.etag)
        partial.parent.mkdir(parents=True, exist_ok=True)
        download = BlobDownload(
            self._client,
            repo.repo_id,
            known,
            self._client.file_url(repo.repo_id, file.name, self._plan.commit),
            partial,
            self._client.cancel,
            lambda n_bytes: self._progress.moved(file, n_bytes),
            self._progress.note,
        )
        download.run()
        finish(partial, repo.blob(known.etag))
        return download.received_bytes

    @contextmanager
    def _holding(self, file: RemoteFile) -> Iterator[None]:
        def waiting() -> None:
            self._progress.note(f"another program downloads {file.name}; waiting for it")

        with blob_lock(self._plan.repo.blob_lock(file.etag), self._client.cancel, waiting):
            yield


def _explained(error: Exception, plan: PullPlan) -> Exception:
    """A full disk or a folder that may not be written, found on the way."""
    import errno

    from mlxk.config.units import format_size

    number = getattr(error, "errno", None)
    if isinstance(error, OperationError) or not isinstance(error, OSError):
        return error
    if number in (errno.ENOSPC, errno.EDQUOT):
        return OperationError(
            "no_space",
            f"the disk of {plan.repo.root} is full (or your quota is used up): {plan.repo.repo_id} takes "
            f"{format_size(plan.total_bytes)}. What came is kept: make room, and the same command goes on",
            path=str(plan.repo.root),
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OperationError(
            "read_only", f"{error.filename or plan.repo.root} cannot be written: {error.strerror}"
        )
    return error
