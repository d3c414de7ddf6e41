"""The front's end of a worker's socket, and a worker that is two threads of the test's own process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from mlxk.workers.channel import Channel
from mlxk.workers.fake_engine import FakeEngine
from mlxk.workers.loop import EngineLoop
from mlxk.workers.protocol import (
    Deltas,
    Failed,
    Finished,
    FromWorker,
    Hello,
    Load,
    Loaded,
    ToWorker,
    decode_from_worker,
    encode_to_worker,
)

PATIENCE_MS = 60_000


class Front:
    """A ROUTER that is spoken through by the test."""

    def __init__(self, folder: Path) -> None:
        self.address = f"ipc://{folder}/s"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(self.address)
        self.heard: list[FromWorker] = []
        """All that the worker has said, in order."""

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def send(self, *messages: ToWorker) -> None:
        self.send_frame(encode_to_worker(list(messages)))

    def send_frame(self, frame: bytes) -> None:
        self._socket.send_multipart([b"w1", frame])

    def listen(self, wait_ms: int = PATIENCE_MS) -> list[FromWorker]:
        """The next frame; an empty list if none comes."""
        if not self._socket.poll(wait_ms):
            return []
        identity, frame = self._socket.recv_multipart()
        assert identity == b"w1"
        messages = decode_from_worker(frame)
        self.heard += messages
        return messages

    def listen_until(self, done: Callable[[FromWorker], bool]) -> FromWorker:
        """The first message that is `done`, of those that have not been waited for yet."""
        while True:
            messages = self.listen()
            assert messages, f"the worker fell silent after {self.heard[-3:]}"
            for message in messages:
                if done(message):
                    return message

    def last_words(self, request_id: str) -> list[Finished | Failed]:
        return [m for m in self.heard if isinstance(m, Finished | Failed) and m.id == request_id]

    def text(self, request_id: str) -> str:
        items = [item for m in self.heard if isinstance(m, Deltas) for item in m.items]
        return "".join(item.content for item in items if item.id == request_id)


class InProcessWorker:
    """The I/O thread and the engine thread, as `mlxk.workers.__main__` starts them."""

    def __init__(self, address: str, folder: Path) -> None:
        self.engine = FakeEngine()
        self.channel = Channel(address, "w1", self.engine.stats)
        self.loop = EngineLoop(self.engine, self.channel)
        self._folder = folder
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self.channel.start()
        self.channel.send([Hello(1, "test", 1, self.engine.name)])
        self._thread.start()

    def load(self, front: Front, **options: object) -> None:
        front.send(self.load_message(**options))
        front.listen_until(lambda m: isinstance(m, Loaded))

    def load_message(self, **options: object) -> Load:
        return Load("fake", str(self._folder), 1000, options=options)

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def hold(self, monkeypatch: pytest.MonkeyPatch, what: str) -> threading.Event:
        """From here on the engine's `what` takes as long as the test wants: until that sets the event."""
        go_on = threading.Event()
        real = getattr(self.engine, what)

        def held(*args: Any) -> Any:
            assert go_on.wait(PATIENCE_MS / 1000)
            return real(*args)

        monkeypatch.setattr(self.engine, what, held)
        return go_on

    def join(self) -> None:
        self._thread.join(PATIENCE_MS / 1000)
        assert self.ended, "the worker did not end"

    def _run(self) -> None:
        try:
            self.loop.run()
        finally:
            self.channel.close()


@contextmanager
def front_and_worker(folder: Path) -> Iterator[tuple[Front, InProcessWorker]]:
    """A worker that has said Hello. Whatever the test does to it, it has ended afterwards."""
    front = Front(folder)
    worker = InProcessWorker(front.address, folder)
    worker.start()
    try:
        front.listen_until(lambda m: isinstance(m, Hello))
        yield front, worker
    finally:
        for fault in ("hang_at_step", "load_hangs", "deaf_to_shutdown"):
            worker.engine._faults.pop(fault, None)
        worker.channel.request_shutdown()
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not worker.ended and time.monotonic() < deadline:
            front.listen(10)
        worker.join()
        front.close()
