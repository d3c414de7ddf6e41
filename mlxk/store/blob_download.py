"""Brings one file of the hub into the cache's blobs, and goes on where an earlier attempt ended.

huggingface_hub (1.33) throws away what came of a file when its download breaks off: of a shard of 5 GB that
can be an hour. So the bytes are fetched here, with a Range request, into `blobs/ETAG.incomplete`, and checked
against the hash that is the blob's name.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from mlxk.store.hub_client import HubClient, RemoteFile
from mlxk.store.hub_errors import CancelledError, OperationError, TransferError
from mlxk.store.hub_faults import as_error
from mlxk.store.retries import with_retries

_CHUNK = 1024 * 1024
_CONNECT_S = 15.0
_SILENCE_S = 30.0
"""Without a byte for so long, a connection is taken for dead."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


class BlobDownload:
    """One file's way to `partial`. Owned by one thread, which holds the blob's lock."""

    def __init__(
        self,
        client: HubClient,
        repo_id: str,
        file: RemoteFile,
        url: str,
        partial: Path,
        cancel: threading.Event,
        moved: Callable[[int], None],
        note: Callable[[str], None],
    ) -> None:
        self._client = client
        self._repo_id = repo_id
        self._file = file
        self._url = url
        self._partial = partial
        self._cancel = cancel
        self._moved = moved
        self._note = note
        self.received_bytes = 0
        """What came over the line in this call, thrown away or not."""

    def run(self) -> None:
        """Returns when `partial` is whole. Raises OperationError or CancelledError; what came is kept."""
        try:
            self._fetch()
            if not self._is_intact():
                self._note(f"{self._file.name} arrived damaged; once more from the start")
                self._restart()
                self._fetch()
                if not self._is_intact():
                    self._restart()
                    raise OperationError(
                        "checksum_mismatch",
                        f"{self._file.name} does not have the contents that the hub announces, twice: a "
                        "proxy changes it, or the hub's copy is damaged. It was not kept",
                        file=self._file.name,
                    )
        except TransferError as error:
            raise OperationError(
                "download_failed",
                f"{self._file.name}: {error}, and it stayed so. What came is kept: the same command goes on "
                "from there",
                file=self._file.name,
            ) from error

    def _fetch(self) -> None:
        with_retries(self._attempt, self._client.policy, self._cancel, self._note)

    def _attempt(self) -> None:
        before = self.received_bytes
        try:
            # Unbuffered: what was written stays, however this process ends.
            with open(self._partial, "ab", buffering=0) as output:
                if output.tell() > self._file.size_bytes:
                    self._truncate(output)
                if output.tell() < self._file.size_bytes or not self._file.size_bytes:
                    self._stream(output)
                if (now := output.tell()) != self._file.size_bytes:
                    raise TransferError(f"{now} of {self._file.size_bytes} bytes came")
        except (CancelledError, OperationError):
            raise
        except Exception as error:
            fault = as_error(error, self._repo_id, self._client)
            if isinstance(fault, TransferError):
                fault.moved = self.received_bytes > before
            if fault is error:
                raise
            raise fault from error

    def _stream(self, output: BinaryIO) -> None:
        import httpx
        from huggingface_hub.utils import hf_raise_for_status

        if self._cancel.is_set():
            raise CancelledError
        have = output.tell()
        headers = self._client.headers() | ({"Range": f"bytes={have}-"} if have else {})
        timeout = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)
        with self._client.session().stream("GET", self._url, headers=headers, timeout=timeout) as response:
            if response.status_code == 416:  # what we have is no beginning of what the hub has
                self._truncate(output)
                raise TransferError(f"the hub refused to go on at byte {have}")
            hf_raise_for_status(response)
            if have and not _continues(response, have):
                self._truncate(output)
            self._write(response, output)

    def _write(self, response: Any, output: BinaryIO) -> None:
        # As it comes: asked for pieces of one size, httpx would hold back, and lose, what came before a cut.
        for chunk in response.iter_bytes():
            if self._cancel.is_set():
                raise CancelledError
            self.received_bytes += len(chunk)
            if output.tell() + len(chunk) > self._file.size_bytes:
                self._truncate(output)
                raise OperationError(
                    "size_mismatch",
                    f"{self._file.name} is longer than the {self._file.size_bytes} bytes that the hub "
                    "announces; it was not kept",
                    file=self._file.name,
                )
            _write_all(output, chunk)
            self._moved(len(chunk))

    def _truncate(self, output: BinaryIO) -> None:
        self._moved(-output.tell())
        output.truncate(0)
        output.seek(0)

    def _restart(self) -> None:
        self._moved(-self._partial.stat().st_size)
        self._partial.unlink()

    def _is_intact(self) -> bool:
        """Read back from the disk: that is what will be loaded."""
        return is_intact(self._partial, self._file, self._cancel)


def is_intact(path: Path, file: RemoteFile, cancel: threading.Event) -> bool:
    """Whether the contents of `path`, which has the right length, are those that the hub's hash is of."""
    if _SHA256.fullmatch(file.etag):
        hashes = [hashlib.sha256()]
    elif _SHA1.fullmatch(file.etag):  # git's hash of a blob, or (mirrors) that of the content
        hashes = [hashlib.sha1(b"blob %d\0" % file.size_bytes), hashlib.sha1()]
    else:
        return True  # nothing is known but the size
    with open(path, "rb", buffering=0) as content:
        while chunk := content.read(_CHUNK):
            if cancel.is_set():
                raise CancelledError
            for one in hashes:
                one.update(chunk)
    return any(one.hexdigest() == file.etag for one in hashes)


def _continues(response: Any, have: int) -> bool:
    """Whether the answer begins at byte `have`. Some proxies know no Range and send all of it again."""
    sent = str(response.headers.get("Content-Range", ""))
    return response.status_code == 206 and sent.startswith(f"bytes {have}-")


def _write_all(output: BinaryIO, chunk: bytes) -> None:
    """An unbuffered write may take a part only: a disk that is nearly full does."""
    view = memoryview(chunk)
    while view:
        view = view[output.write(view) :]


def finish(partial: Path, blob: Path) -> None:
    """The whole file gets its name. The permissions are those of any new file, as the hub's own are."""
    os.replace(partial, blob)
