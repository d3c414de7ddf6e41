"""An HTTP server that can misbehave in ways a real one cannot be made to."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(payload: Any) -> bytes:
    text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def delta(finish_reason: str | None = None, usage: Any = None, **fields: str) -> bytes:
    """A chat chunk."""
    choice = {"index": 0, "delta": fields, "finish_reason": finish_reason}
    return event({"choices": [choice], **({"usage": usage} if usage else {})})


def answer(status: str, body: bytes) -> list[bytes]:
    """A reply that is no stream."""
    return [f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body]


@dataclass
class Stub:
    """What the server saw."""

    url: str = ""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    asked: threading.Event = field(default_factory=threading.Event)
    client_left: threading.Event = field(default_factory=threading.Event)


@contextmanager
def http_stub(
    pieces: Iterable[bytes], *, stay: bool = False, then: Iterable[bytes] | None = None
) -> Iterator[Stub]:
    """Serves one request: writes `pieces` one by one, then closes the connection, or with `stay` waits until
    the client has closed it. `then`: what a second request gets; without it there is nobody any more."""
    stub = Stub()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stub.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.settimeout(20)
        thread = threading.Thread(target=_serve, args=(listener, stub, pieces, stay, then))
        thread.start()
        try:
            yield stub
        finally:
            if not stub.asked.is_set():
                _poke(stub.url)
            thread.join(20)
            assert not thread.is_alive()


def _poke(url: str) -> None:
    """Ends an accept that nobody will satisfy."""
    host, port = url.removeprefix("http://").split(":")
    socket.create_connection((host, int(port))).close()


def _serve(
    listener: socket.socket, stub: Stub, pieces: Iterable[bytes], stay: bool, then: Iterable[bytes] | None
) -> None:
    _serve_one(listener, stub, pieces, stay)
    if then is not None:
        _serve_one(listener, Stub(), then, False)
    if stub.asked.is_set():
        listener.close()


def _serve_one(listener: socket.socket, stub: Stub, pieces: Iterable[bytes], stay: bool) -> None:
    connection, _ = listener.accept()
    connection.settimeout(20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        if not _read_request(connection, stub):
            return
        stub.asked.set()
        try:
            for piece in pieces:
                connection.sendall(piece)
            if stay and connection.recv(1) == b"":
                stub.client_left.set()
        except OSError:
            stub.client_left.set()


def _read_request(connection: socket.socket, stub: Stub) -> bool:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return False
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    stub.path = first.split()[1]
    stub.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(stub.headers.get("content-length", "0")):
        body += connection.recv(65536)
    stub.body = json.loads(body) if body else {}
    return True
