"""A control socket that answers what a test wants."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import zmq

from mlxk.supervisor.control_protocol import (
    ControlFault,
    ControlReply,
    ControlRequest,
    decode_request,
    encode_reply,
)

Answer = Callable[[ControlRequest], "dict[str, Any] | ControlFault | None"]
"""The reply's data, its fault, or None for silence. `ping` is answered without it."""


@dataclass
class Stub:
    path: str
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


@contextmanager
def control_stub(answer: Answer, *, deaf: bool = False) -> Iterator[Stub]:
    """A ROUTER in a thread. `deaf`: answers nothing, not even `ping`."""
    end, bound = threading.Event(), threading.Event()
    with tempfile.TemporaryDirectory(prefix="mlxk-") as folder:
        stub = Stub(f"{folder}/c")

        def loop() -> None:
            with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
                router.setsockopt(zmq.LINGER, 0)
                router.bind(f"ipc://{stub.path}")
                bound.set()
                while not end.is_set():
                    if router.poll(20):
                        peer, frame = router.recv_multipart()
                        request = decode_request(frame)
                        if deaf:
                            continue
                        if request.verb == "ping":
                            result: dict[str, Any] | ControlFault | None = {}
                        else:
                            stub.seen.append((request.verb, request.args))
                            result = answer(request)
                        if result is not None:
                            kind = "error" if isinstance(result, ControlFault) else "data"
                            router.send_multipart(
                                [peer, encode_reply(ControlReply(request.id, **{kind: result}))]
                            )

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            assert bound.wait(10)
            yield stub
        finally:
            end.set()
            thread.join(10)
            assert not thread.is_alive()
