"""What workers print: one thread reads all their pipes and can never make one of them wait.

A worker blocks when its pipe is full, so the reader takes bytes in any form (long lines, floods, binary) at
once, keeps a short tail for error messages, and drops what the disk does not take in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

READ_BYTES = 65536
TAIL_BYTES = 16384
MAX_FILE_BYTES = 8 * 1024 * 1024
"""At this size a log becomes NAME.1 (one old file is kept)."""


class WorkerLog:
    """One worker's output. `tail` may be asked by any thread."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self._file: BinaryIO | None = None
        self._written = 0
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._notes: deque[bytes] = deque()

    def note(self, line: str) -> None:
        """A line of the front's own, written before the worker's next output. For the event loop's thread:
        only the pump's may touch the file."""
        self._notes.append(f"--- {line}\n".encode())

    def tail(self, n_lines: int = 20) -> tuple[str, ...]:
        """The last lines, each cut to a readable length."""
        text = b"".join(list(self._tail)).decode("utf-8", "replace")
        return tuple(line[:400] for line in text.splitlines()[-n_lines:])

    def write(self, data: bytes) -> None:
        """By the pump's thread only."""
        data = b"".join([self._notes.popleft() for _ in range(len(self._notes))]) + data
        if not data:
            return
        self._remember(data)
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("ab", buffering=0)
                self._written = self._file.tell()
            if self._written > MAX_FILE_BYTES:
                self._file.close()
                self.path.replace(self.path.with_name(self.path.name + ".1"))
                self._file = self.path.open("ab", buffering=0)
                self._written = 0
            self._written += self._file.write(data)
        except OSError:
            pass  # a full disk or a removed folder must not stop the reading: the worker would block

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _remember(self, data: bytes) -> None:
        self._tail.append(data[-TAIL_BYTES:])
        self._tail_bytes += len(self._tail[-1])
        while self._tail_bytes > TAIL_BYTES and len(self._tail) > 1:
            self._tail_bytes -= len(self._tail.popleft())


class LogPump:
    """The thread that reads all workers' pipes."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._new: deque[WorkerLog] = deque()
        self._gone: deque[tuple[WorkerLog, Callable[[], object]]] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="worker-logs", daemon=True)
        self._thread.start()

    def add(self, log: WorkerLog) -> None:
        self._new.append(log)
        self._wake()

    def drop(self, log: WorkerLog) -> asyncio.Future[None]:
        """The worker has been reaped: take what is there, and do not wait for a grandchild's pipe end.

        The future is done when the log is complete: only then does its tail hold the last words.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not done.done():
                done.set_result(None)

        self._gone.append((log, lambda: loop.call_soon_threadsafe(settle)))
        self._wake()
        return done

    def close(self) -> None:
        """Take what is there and end the thread."""
        if self._closing:
            return
        self._closing = True
        self._wake()
        self._thread.join(timeout=2)
        if not self._thread.is_alive():  # else it may still use them
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _wake(self) -> None:
        if self._closing and not self._thread.is_alive():
            return  # the descriptor may be somebody else's by now
        with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups already
            os.write(self._wake_write, b"\0")

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.data is None:
                    os.read(self._wake_read, 4096)
                else:
                    self._read(key.data)
            self._take_orders()
        self._take_orders()
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                self._end(key.data)
        self._selector.close()

    def _take_orders(self) -> None:
        while self._new:
            log = self._new.popleft()
            self._selector.register(log.descriptor, selectors.EVENT_READ, log)
        while self._gone:
            log, on_end = self._gone.popleft()
            self._end(log)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                on_end()

    def _read(self, log: WorkerLog) -> None:
        try:
            data = os.read(log.descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            log.write(data)
        else:
            self._end(log)

    def _end(self, log: WorkerLog) -> None:
        if log.descriptor < 0:
            return
        log.write(b"")  # notes about a worker that has never printed
        with contextlib.suppress(OSError):
            for _ in range(16):  # what it printed last, bounded: a grandchild may still be printing
                data = os.read(log.descriptor, READ_BYTES)
                if not data:
                    break
                log.write(data)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(log.descriptor)
        with contextlib.suppress(OSError):
            os.close(log.descriptor)
        log.descriptor = -1
        log.close()
