"""The acceptor with real sockets, and a process at its limit of files."""

from __future__ import annotations

import asyncio
import functools
import logging
import resource
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import pytest
import uvloop

from mlxk.api import acceptor as module
from mlxk.api.acceptor import Acceptor
from mlxk.api.connections import HttpConnection


def in_the_servers_loop(scene: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(scene)
    def test(**fixtures: Any) -> None:
        uvloop.run(scene(**fixtures))

    return test


class Greeting(asyncio.Protocol):
    """Says hello and stays; `made` has all."""

    made: list[Greeting]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(b"hello")
        self.made.append(self)

    def shutdown(self) -> None:
        self.transport.close()


@contextmanager
def limit(n_files: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_files, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Hall:
    """A listening socket, its acceptor, and the clients that a test makes."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.listener.setblocking(False)
        self.protocol = type("OfOneTest", (Greeting,), {"made": []})
        self.acceptor = Acceptor(self.listener, cast(type[HttpConnection], self.protocol))
        stack.callback(self.acceptor.close)

    def client(self) -> socket.socket:
        sock = self._stack.enter_context(socket.socket())
        sock.connect(self.listener.getsockname())
        sock.setblocking(False)
        return sock

    def end(self) -> None:
        self.acceptor.close()
        for connection in self.protocol.made:
            connection.transport.close()


async def read(sock: socket.socket) -> bytes:
    """What there is, waiting for something."""
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 4096), 20)


@in_the_servers_loop
async def test_connections_are_taken_until_it_is_closed() -> None:
    with ExitStack() as stack:
        hall = Hall(stack)
        clients = [hall.client() for _ in range(100)]
        assert {await read(client) for client in clients} == {b"hello"}
        hall.acceptor.close()
        hall.acceptor.close()
        late = hall.client()
        await hall.acceptor.wait_closed()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(late, 10), 0.05)
        hall.end()


@in_the_servers_loop
async def test_whoever_would_take_of_the_reserve_is_told_and_let_go(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        hall = Hall(stack)
        clients = [hall.client() for _ in range(12)]
        ceiling = max(client.fileno() for client in clients) + 1 + 5
        monkeypatch.setattr(module, "http_ceiling", lambda: ceiling)
        clients[7].send(b"GET / HTTP/1.1\r\n\r\n")  # unread, it would reset the answer away
        answers = [await read(client) for client in clients]
        taken = [answer for answer in answers if answer == b"hello"]
        refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503 ")]
        assert (len(taken), len(taken) + len(refused)) == (5, 12)
        for answer in refused:
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b"content-length: %d\r\n" % len(body) in head
            assert b"too_many_connections" in body
        assert await read(clients[-1]) == b""
        assert caplog.text.count("too many connections are open") == 1
        hall.end()


@in_the_servers_loop
async def test_where_the_system_has_no_descriptor_clients_wait_and_nothing_spins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    with ExitStack() as stack:
        hall = Hall(stack)
        client = hall.client()
        with limit(3):
            used = time.process_time()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 10), 0.6)
            assert time.process_time() - used < 0.3
        assert await read(client) == b"hello"
        assert caplog.text.count("cannot be accepted for now") == 1
        hall.end()


@in_the_servers_loop
async def test_a_connection_that_was_just_taken_at_the_end_is_told() -> None:
    with ExitStack() as stack:
        hall = Hall(stack)
        client = hall.client()
        hall.acceptor._accept()
        hall.acceptor.close()
        assert await read(client) == b"hello"
        assert await read(client) == b""
        await hall.acceptor.wait_closed()
