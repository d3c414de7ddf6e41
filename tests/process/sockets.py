"""Bare sockets to a server, for clients that a library would not be: slow, deaf, many."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.process.client import Request
from tests.server import Server

FOREVER = 10_000_000


@contextmanager
def many_files() -> Iterator[None]:
    """This process holds a crowd's other ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(server: Server, *, buffer_bytes: int | None = None) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    if buffer_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    connection.settimeout(30)
    connection.connect((host, int(port)))
    return connection


def post(model: str, words: int, *, stream: bool = True) -> bytes:
    body = json.dumps({"model": model, "prompt": "go", "max_tokens": words, "stream": stream}).encode()
    return b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )


def read_all(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


def await_answer(connection: socket.socket) -> None:
    """Wait until an answer begins to come, and take nothing of it. It may have been cut already."""
    with suppress(ConnectionResetError):
        assert connection.recv(1, socket.MSG_PEEK)


def in_flight(server: Server, model: str) -> int:
    return int(server.ps().get(model, {}).get("in_flight", 0))


def assert_others_are_served(server: Server) -> None:
    with Request(server, "slow", words=3) as request:
        assert request.text() == "w0 w1 w2"
