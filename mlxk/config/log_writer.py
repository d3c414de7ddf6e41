"""Log files that never make anybody wait: a bounded queue, one thread that writes, files that rotate.

Used for the workers' output and for the server's own log. Whoever puts a line in goes on at once; a disk (or
a terminal) that does not take it in time costs lines, not tokens, and the log says how many.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from mlxk.config import log_files

BACKLOG_BYTES = 8 * 1024 * 1024
"""So much may wait for one file. Beyond it, what comes is lost (and counted)."""
RETRY_S = 2.0
"""A file that could not be written is left alone for so long."""


class RotatingFile:
    """Appends to a file; at `max_bytes` it becomes NAME.1. For one thread; never raises.

    It is opened anew for each write: that costs microseconds, and a removed folder, a file that somebody
    moved away and a disk that was full for a while heal by themselves.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int | None = None,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._on_trouble = on_trouble
        self._in_trouble = False
        self._retry_at = 0.0
        self._lost_lines = self._lost_bytes = 0

    def write(self, data: bytes) -> None:
        if self._in_trouble and time.monotonic() < self._retry_at:
            self._lose(data)
            return
        note = lost_note(self._lost_lines, self._lost_bytes, "the file could not be written")
        try:
            self._append(note + data)
        except OSError as error:
            self._retry_at = time.monotonic() + RETRY_S
            self._lose(data)
            if not self._in_trouble:  # once, until it works again
                self._in_trouble = True
                if self._on_trouble is not None:
                    self._on_trouble(f"{self.path} cannot be written ({error.strerror}); its lines are lost")
        else:
            self._in_trouble = False
            self._lost_lines = self._lost_bytes = 0

    def _lose(self, data: bytes) -> None:
        self._lost_lines += data.count(b"\n")
        self._lost_bytes += len(data)

    def _append(self, data: bytes) -> None:
        descriptor = self._open()
        try:
            size = os.fstat(descriptor).st_size
            max_bytes = log_files.FILE_BYTES if self._max_bytes is None else self._max_bytes
            if size and size + len(data) > max_bytes:
                os.close(descriptor)
                descriptor = -1
                log_files.rotate(self.path)
                log_files.prune(self.path.parent)
                descriptor = self._open()
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _open(self) -> int:
        # O_NONBLOCK: somebody's named pipe in its place must not hold the thread.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            return os.open(self.path, flags, 0o600)
        except FileNotFoundError:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self.path, flags, 0o600)


def lost_note(lines: int, n_bytes: int, why: str) -> bytes:
    """What stands in a log where lines are missing; nothing if none are."""
    return f"\n--- {lines} lines ({n_bytes} bytes) are missing here: {why}\n".encode() if n_bytes else b""


class Outlet:
    """One target of a `LogWriter`: what is put in is given to `write`, in order, in the writer's thread."""

    def __init__(self, writer: LogWriter, write: Callable[[bytes], object]) -> None:
        self._writer = writer
        self.write = write
        self.pending_bytes = 0
        self.lost_lines = self.lost_bytes = 0

    def put(self, data: bytes) -> None:
        """From any thread; returns at once."""
        self._writer.put(self, data)


class LogWriter:
    """The thread, started when there is something to write. It may hang in a write for ever: nobody waits for
    it longer than he says."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._news = threading.Condition()  # held for an append or a pop only, never during a write
        self._queue: deque[tuple[Outlet, bytes]] = deque()
        self._busy = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def put(self, outlet: Outlet, data: bytes) -> None:
        with self._news:
            if self._closing or outlet.pending_bytes + len(data) > BACKLOG_BYTES:
                outlet.lost_lines += data.count(b"\n")
                outlet.lost_bytes += len(data)
                return
            if outlet.lost_bytes:
                why = "they came faster than they could be written"
                data = lost_note(outlet.lost_lines, outlet.lost_bytes, why) + data
                outlet.lost_lines = outlet.lost_bytes = 0
            outlet.pending_bytes += len(data)
            self._queue.append((outlet, data))
            self._news.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was put in has been written; False after `timeout_s`."""
        with self._news:
            return self._news.wait_for(lambda: not self._queue and not self._busy, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Write what is there and end the thread; False if it has not ended after `timeout_s`."""
        with self._news:
            self._closing = True
            self._news.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._news:
                self._busy = False
                self._news.notify_all()
                self._news.wait_for(lambda: bool(self._queue) or self._closing)
                if not self._queue:
                    return
                outlet, data = self._queue.popleft()
                # What is there for the same target goes in one write.
                parts = [data]
                size = len(data)
                while self._queue and self._queue[0][0] is outlet and size < 65536:
                    parts.append(self._queue.popleft()[1])
                    size += len(parts[-1])
                self._busy = True
            with contextlib.suppress(Exception):  # a target that fails has nobody left to be told
                outlet.write(b"".join(parts))
            with self._news:
                outlet.pending_bytes -= size
