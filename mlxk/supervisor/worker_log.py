"""What workers print: one thread reads all their pipes and can never make one of them wait.

A worker blocks when its pipe is full, so the reader takes bytes in any form (long lines, floods, binary) at
once, keeps a short tail for error messages, and hands them on to the files' own thread, which may be slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from mlxk.supervisor.log_shelf import LogShelf, ModelLog

READ_BYTES = 65536
TAIL_BYTES = 16384
HEAD_BYTES = 256 * 1024
"""So much of a worker's output is kept until it gets a model, and so a log."""


class WorkerLog:
    """One worker's output, on its way to the log of its model."""

    def __init__(self, worker_id: str, pid: int, descriptor: int) -> None:
        self.descriptor = descriptor
        self._author = f"{worker_id} (pid {pid})"
        self._model: str | None = None
        self._notes: deque[bytes] = deque()
        self._log: ModelLog | None = None
        self._head: deque[bytes] = deque()
        self._head_bytes = self._head_lost = 0
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self.wake: Callable[[], None] = lambda: None

    @property
    def model(self) -> str | None:
        return self._model

    def belongs_to(self, model: str) -> None:
        """The worker has got a model: what it has printed and will print goes to that one's log."""
        if self._model is None:
            self._model = model
            self.note(f"{self._author} is for {model}")
            self.wake()

    def note(self, line: str) -> None:
        """A line of the front's own, written before the worker's next output. For the event loop's thread:
        only the pump's may touch the log."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._notes.append(f"--- {stamp} {line}\n".encode("utf-8", "replace"))

    def last_note(self, line: str) -> None:
        """After its end: how that was."""
        self.note(f"{self._author} {line}")
        self.wake()

    def tail(self, n_lines: int = 20) -> tuple[str, ...]:
        """The last lines it has printed, each cut to a readable length. For any thread."""
        text = b"".join(list(self._tail)).decode("utf-8", "replace")
        return tuple(line[:400] for line in text.splitlines()[-n_lines:])

    # ------------------------------------------------------- by the pump's thread only

    def write(self, data: bytes, shelf: LogShelf) -> None:
        self._remember(data)
        notes = b"".join([self._notes.popleft() for _ in range(len(self._notes))])
        if self._log is None and self._model is not None:
            self._log = shelf.log_of(self._model)
            notes += self._take_head()
        if data := notes + data:
            if self._log is not None:
                self._log.put(self._author, data)
            else:
                self._keep_head(data)

    def end(self, shelf: LogShelf) -> None:
        """It prints nothing more."""
        self.write(b"", shelf)
        if self._log is None and self._head:
            self._log = shelf.log_of(None)
            self.note(f"{self._author} never got a model")
            self._log.put(self._author, self._notes.popleft() + self._take_head())
        if self._log is not None:
            self._log.end(self._author)

    def _keep_head(self, data: bytes) -> None:
        self._head.append(data)
        self._head_bytes += len(data)
        while self._head_bytes > HEAD_BYTES and len(self._head) > 1:
            lost = len(self._head.popleft())
            self._head_bytes -= lost
            self._head_lost += lost

    def _take_head(self) -> bytes:
        lost = f"--- the first {self._head_lost} bytes were not kept\n".encode() if self._head_lost else b""
        head = b"".join(self._head)
        self._head.clear()
        return lost + head

    def _remember(self, data: bytes) -> None:
        if not data:
            return
        self._tail.append(data[-TAIL_BYTES:])
        self._tail_bytes += len(self._tail[-1])
        while self._tail_bytes > TAIL_BYTES and len(self._tail) > 1:
            self._tail_bytes -= len(self._tail.popleft())


class LogPump:
    """The thread that reads all workers' pipes."""

    def __init__(self, shelf: LogShelf) -> None:
        self.shelf = shelf
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._orders: deque[Callable[[], object]] = deque()
        """For the thread, in the order in which they were given: a log that is complete has its last note."""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="worker-logs", daemon=True)
        self._thread.start()

    def add(self, log: WorkerLog) -> None:
        log.wake = partial(self._order, partial(self._catch_up, log))
        self._order(partial(self._selector.register, log.descriptor, selectors.EVENT_READ, log))

    def drop(self, log: WorkerLog) -> asyncio.Future[None]:
        """The worker has been reaped: take what is there, and do not wait for a grandchild's pipe end.

        The future is done when the log is complete: only then does its tail hold the last words.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not done.done():
                done.set_result(None)

        if self._closing:  # the thread takes what is there, and then no orders any more
            settle()
            return done
        self._order(partial(self._complete, log, partial(loop.call_soon_threadsafe, settle)))
        return done

    def close(self) -> None:
        """Take what is there and end the threads, that of the files too."""
        if self._closing:
            return
        self._closing = True
        self._wake()
        self._thread.join(timeout=2)
        self.shelf.close()
        if not self._thread.is_alive():  # else it may still use them
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _order(self, order: Callable[[], object]) -> None:
        self._orders.append(order)
        self._wake()

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
        while self._orders:
            self._orders.popleft()()

    def _catch_up(self, log: WorkerLog) -> None:
        log.write(b"", self.shelf)
        if log.descriptor < 0:
            log.end(self.shelf)

    def _complete(self, log: WorkerLog, on_end: Callable[[], object]) -> None:
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
            log.write(data, self.shelf)
        else:
            self._end(log)

    def _end(self, log: WorkerLog) -> None:
        if log.descriptor < 0:
            return
        with contextlib.suppress(OSError):
            for _ in range(16):  # what it printed last, bounded: a grandchild may still be printing
                data = os.read(log.descriptor, READ_BYTES)
                if not data:
                    break
                log.write(data, self.shelf)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(log.descriptor)
        with contextlib.suppress(OSError):
            os.close(log.descriptor)
        log.descriptor = -1
        log.end(self.shelf)
