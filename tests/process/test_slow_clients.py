"""Clients that send slowly, never read, or vanish: each costs a connection for a while, and nobody else
anything."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.process import vanished
from tests.process.sockets import (
    FOREVER,
    assert_others_are_served,
    await_answer,
    connect,
    in_flight,
    post,
    read_all,
)
from tests.process.watch import until
from tests.server import Server, add_fake_model, standing

SHORT = "1s"
"""For clients that are to be late. No honest request goes to a server with this limit, unless it is in one
packet: this process may be kept from running for a second or two."""
PATIENCE_S = 3
LONG = "60s"
MIB = 2**20


@pytest.fixture(scope="module")
def no_slow_senders(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    with with_limits(tmp_path_factory.mktemp("senders"), receive=SHORT, send=LONG) as running:
        yield running


@pytest.fixture(scope="module")
def no_slow_readers(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    """For clients that send slowly, but are served."""
    with with_limits(tmp_path_factory.mktemp("readers"), receive=f"{PATIENCE_S}s", send=SHORT) as running:
        yield running


@contextmanager
def with_limits(home: Path, *, receive: str, send: str) -> Iterator[Server]:
    add_fake_model(home, "quick")
    add_fake_model(home, "slow", step_s=0.05)
    env = {
        "MLXK_ENGINE": "fake",
        "MLXK_SPARE": "0",
        "MLXK_RECEIVE_TIMEOUT": receive,
        "MLXK_SEND_TIMEOUT": send,
    }
    with standing(Server(home, env=env)) as running:
        yield running


# --------------------------------------------------------------------- slow to send


@pytest.mark.parametrize(
    "head",
    [
        b"G",
        b"GET /health HTTP/1.1\r\nHost: local",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX: ",
    ],
    ids=["one byte", "half a header", "an endless header"],
)
def test_a_head_that_does_not_come_is_a_408(no_slow_senders: Server, head: bytes) -> None:
    with connect(no_slow_senders) as connection:
        connection.sendall(head)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer


def test_a_head_that_trickles_is_no_better(no_slow_senders: Server) -> None:
    """Slowloris: each byte comes in time, the head never does."""
    with connect(no_slow_senders) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ")
        connection.settimeout(0.1)
        answer = b""

        def trickle() -> bytes:
            nonlocal answer
            with suppress(OSError):
                connection.send(b"x")
            with suppress(TimeoutError):
                answer += connection.recv(1000)
            return answer

        until(trickle)
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
def test_a_body_that_trickles_is_a_408(no_slow_senders: Server, framing: bytes) -> None:
    with connect(no_slow_senders) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n" % framing)
        connection.settimeout(0.1)
        answer = b""

        def trickle() -> bytes:
            nonlocal answer
            with suppress(OSError):
                connection.send(b"1\r\nx\r\n" if b"chunked" in framing else b"x")
            with suppress(TimeoutError):
                answer += connection.recv(1000)
            return answer

        until(trickle)
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_comes_in_slow_pieces_is_taken(no_slow_readers: Server) -> None:
    """Slow is not hostile: this one takes longer than the limit."""
    body = json.dumps({"model": "quick", "prompt": "x" * 50_000, "max_tokens": 2}).encode()
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    )
    with connect(no_slow_readers) as connection:
        began = time.monotonic()
        connection.sendall(head % len(body))
        connection.settimeout(0.4)
        for start in range(0, len(body), 5000):
            connection.sendall(body[start : start + 5000])
            with suppress(TimeoutError):  # the pace of the sender
                assert not connection.recv(1) or start + 5000 >= len(body)
        assert time.monotonic() - began > PATIENCE_S
        connection.settimeout(30)
        assert b'"text":"w0 w1"' in read_all(connection)


# --------------------------------------------------------------------- slow to read


def test_who_never_reads_loses_the_connection_and_the_slot(no_slow_readers: Server) -> None:
    server = no_slow_readers
    before = psutil.Process(server.pid).memory_info().rss
    with ExitStack() as stack:
        deaf = [stack.enter_context(connect(server, buffer_bytes=4096)) for _ in range(4)]
        for connection in deaf:
            connection.sendall(post("quick", FOREVER))
        for connection in deaf:
            await_answer(connection)  # the last one may begin when the first has lost its connection already
        assert_others_are_served(server)
        until(lambda: in_flight(server, "quick") == 0, timeout_s=60)
    assert psutil.Process(server.pid).memory_info().rss - before < 64 * MIB
    assert_others_are_served(server)


def test_who_reads_a_byte_now_and_then_gets_it_all_and_holds_no_slot(no_slow_senders: Server) -> None:
    words = 2000
    with connect(no_slow_senders, buffer_bytes=4096) as connection:
        connection.sendall(post("quick", words))
        received = b""

        def sip() -> bool:
            nonlocal received
            received += connection.recv(1)
            return len(received) > 20 and in_flight(no_slow_senders, "quick") == 0

        until(sip)  # the worker has finished long before the client has read
        while b"data: [DONE]" not in received[-100:]:
            received += connection.recv(65536)
    assert received.count(b'"text":"') > 1
    assert f"w{words - 1}".encode() in received


def test_who_vanishes_behind_a_finished_answer_is_let_go(no_slow_readers: Server) -> None:
    """The whole answer fits into the buffers of system and front; nobody ever takes it."""
    server = no_slow_readers
    connections = len(psutil.Process(server.pid).net_connections())
    with connect(server, buffer_bytes=4096) as connection:
        connection.sendall(
            post("quick", 20_000, stream=False).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        await_answer(connection)
        server.wait_for(lambda models: models["quick"]["in_flight"] == 0)
        until(lambda: len(psutil.Process(server.pid).net_connections()) <= connections)


# ------------------------------------------------------------------------- vanished


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net/tcp")
def test_a_connection_is_watched_by_the_system(no_slow_readers: Server) -> None:
    """It probes while nothing is sent. (All options: tests/unit/api/test_connections.py)"""
    keepalive = "02"
    with connect(no_slow_readers) as connection:
        ours = f"{connection.getsockname()[1]:04X}"
        theirs = f"{connection.getpeername()[1]:04X}"

        def timer() -> str:
            rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
            (row,) = [one for one in rows if one[1].endswith(f":{theirs}") and one[2].endswith(f":{ours}")]
            return row[5].partition(":")[0]

        until(lambda: timer() == keepalive)


@pytest.mark.skipif(not vanished.is_possible(), reason="needs `unshare` and `ip`, and to be allowed them")
def test_a_stream_to_a_host_that_vanished_ends_by_the_send_timeout(tmp_path: Path) -> None:
    """Nothing of the answer is acknowledged any more, long before any buffer is full."""
    assert vanished.seconds_until_let_go(tmp_path) < 15
