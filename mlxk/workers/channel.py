"""The worker's I/O thread: the only owner of the DEALER socket.

The engine thread hands messages over and never waits for the network; pings are answered
here, also while the engine is inside a long step or stuck in one.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from mlxk.workers.protocol import (
    FromWorker,
    Ping,
    Pong,
    ProtocolError,
    Shutdown,
    ToWorker,
    WorkerStats,
    decode_to_worker,
    encode_from_worker,
)

LAST_WORDS_MS = 1000
"""How long the socket may linger at the end, to get the last frame out."""


class Channel:
    """Messages in, messages out, for one engine thread.

    `take` and `send` are called by the engine thread; `stats` is called by the I/O thread
    for every ping and must only read plain attributes.
    """

    def __init__(self, address: str, identity: str, stats: Callable[[], WorkerStats]) -> None:
        self._address = address
        self._identity = identity.encode()
        self._stats = stats
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        """Messages to the worker, and what its own threads post."""
        self._outbox: deque[list[FromWorker]] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._closing = False
        self.shutdown_requested = threading.Event()
        """Set as soon as a Shutdown arrives, so that a long load can notice it."""
        self._thread = threading.Thread(target=self._run, name="io", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # ------------------------------------------------------------ engine thread

    def take(self, *, block: bool) -> list[Any]:
        """All messages that have come, and what was posted; waits for one if `block`."""
        messages: list[Any] = []
        if block:
            messages.append(self._inbox.get())
        while True:
            try:
                messages.append(self._inbox.get_nowait())
            except queue.Empty:
                return messages

    def send(self, messages: list[FromWorker]) -> None:
        """Hand a frame to the I/O thread. Never blocks."""
        self._outbox.append(messages)
        self._wake()

    def post(self, message: object) -> None:
        """Hand the engine thread something that does not come from the front. From any thread."""
        self._inbox.put(message)

    def request_shutdown(self) -> None:
        """As if a Shutdown had arrived. Safe in a signal handler (`SimpleQueue.put` is reentrant)."""
        self.shutdown_requested.set()
        self._inbox.put(Shutdown())

    def close(self) -> None:
        """Send what is left and end the thread."""
        self._closing = True
        self._wake()
        self._thread.join(timeout=2 * LAST_WORDS_MS / 1000)

    # --------------------------------------------------------------- I/O thread

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups already
            os.write(self._wake_write, b"\0")

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, self._identity)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.LINGER, LAST_WORDS_MS)
        socket.connect(self._address)
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._wake_read, zmq.POLLIN)
        try:
            while not (self._closing and not self._outbox):
                for ready, _ in poller.poll():
                    if ready is socket:
                        self._receive_all(socket)
                    else:
                        os.read(self._wake_read, 65536)
                while self._outbox:
                    socket.send(encode_from_worker(self._outbox.popleft()))
        except Exception:
            # A worker that can neither hear nor speak must not stay: the front sees its process end.
            traceback.print_exc()
            self.request_shutdown()
        finally:
            socket.close()
            context.term()

    def _receive_all(self, socket: zmq.Socket[bytes]) -> None:
        while True:
            try:
                frame = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                messages = decode_to_worker(frame)
            except ProtocolError as error:
                # One bad frame must not end the process: the front notices a missing answer.
                print(f"dropped a frame: {error}", file=sys.stderr, flush=True)
                continue
            for message in messages:
                self._route(socket, message)

    def _route(self, socket: zmq.Socket[bytes], message: ToWorker) -> None:
        if isinstance(message, Ping):
            socket.send(encode_from_worker([Pong(message.seq, self._stats())]))
            return
        if isinstance(message, Shutdown):
            self.shutdown_requested.set()
        self._inbox.put(message)
