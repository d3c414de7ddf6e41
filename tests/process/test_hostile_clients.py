"""Clients that send slowly, never read, vanish or come in crowds: each costs a connection for a while, and
nobody else anything."""

from __future__ import annotations

import json
import resource
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.process import vanished
from tests.process.client import Request
from tests.process.watch import until
from tests.server import Server, add_fake_model, standing

FOREVER = 10_000_000
TIMEOUT_S = "1s"
PATIENCE_S = 3
MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    """Impatient."""
    with with_limits(tmp_path_factory.mktemp("home"), receive=TIMEOUT_S, send=TIMEOUT_S) as running:
        yield running


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    """For clients that are slow but served: this process may be kept from running for a second or two."""
    with with_limits(tmp_path_factory.mktemp("patient"), receive=f"{PATIENCE_S}s", send="60s") as running:
        yield running


@contextmanager
def with_limits(home: Path, *, receive: str, send: str) -> Iterator[Server]:
    add_fake_model(home, "quick")
    add_fake_model(home, "steady", step_s=0.002)
    add_fake_model(home, "slow", step_s=0.05)
    env = {
        "MLXK_ENGINE": "fake",
        "MLXK_SPARE": "0",
        "MLXK_RECEIVE_TIMEOUT": receive,
        "MLXK_SEND_TIMEOUT": send,
    }
    with many_files(), standing(Server(home, env=env)) as running:
        yield running


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


def in_flight(server: Server, model: str) -> int:
    return int(server.ps().get(model, {}).get("in_flight", 0))


def assert_others_are_served(server: Server) -> None:
    with Request(server, "slow", words=3) as request:
        assert request.text() == "w0 w1 w2"


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
def test_a_head_that_does_not_come_is_a_408(server: Server, head: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(head)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer


def test_a_head_that_trickles_is_no_better(server: Server) -> None:
    """Slowloris: each byte comes in time, the head never does."""
    with connect(server) as connection:
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
def test_a_body_that_trickles_is_a_408(server: Server, framing: bytes) -> None:
    with connect(server) as connection:
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


def test_a_body_that_comes_in_slow_pieces_is_taken(patient: Server) -> None:
    """Slow is not hostile: this one takes longer than the limit."""
    body = json.dumps({"model": "quick", "prompt": "x" * 50_000, "max_tokens": 2}).encode()
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    )
    with connect(patient) as connection:
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


def test_who_never_reads_loses_the_connection_and_the_slot(server: Server) -> None:
    before = psutil.Process(server.pid).memory_info().rss
    with ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(connect(server, buffer_bytes=4096))
            connection.sendall(post("quick", FOREVER))
        server.wait_for(lambda models: models.get("quick", {}).get("in_flight") == 4)
        assert_others_are_served(server)
        until(lambda: in_flight(server, "quick") == 0, timeout_s=60)
    assert psutil.Process(server.pid).memory_info().rss - before < 64 * MIB
    assert_others_are_served(server)


def test_who_reads_a_byte_now_and_then_gets_it_all_and_holds_no_slot(patient: Server) -> None:
    words = 2000
    with connect(patient, buffer_bytes=4096) as connection:
        connection.sendall(post("quick", words))
        received = b""

        def sip() -> bool:
            nonlocal received
            received += connection.recv(1)
            return len(received) > 20 and in_flight(patient, "quick") == 0

        until(sip)  # the worker has finished long before the client has read
        while b"data: [DONE]" not in received[-100:]:
            received += connection.recv(65536)
    assert received.count(b'"text":"') > 1
    assert f"w{words - 1}".encode() in received


def test_who_vanishes_behind_a_finished_answer_is_let_go(server: Server) -> None:
    """The whole answer fits into the buffers of system and front; nobody ever takes it."""
    connections = len(psutil.Process(server.pid).net_connections())
    with connect(server, buffer_bytes=4096) as connection:
        connection.sendall(
            post("quick", 20_000, stream=False).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        server.wait_for(lambda models: models["quick"]["in_flight"] == 1)
        server.wait_for(lambda models: models["quick"]["in_flight"] == 0)
        until(lambda: len(psutil.Process(server.pid).net_connections()) <= connections)


# --------------------------------------------------------------------------- crowds


def test_a_thousand_idle_connections_hinder_nobody(server: Server) -> None:
    front = psutil.Process(server.pid)
    before = front.num_fds()
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connect(server))
        until(lambda: front.num_fds() >= before + 1000)
        assert_others_are_served(server)
    until(lambda: front.num_fds() <= before + 5)


def test_of_a_thousand_requests_as_many_are_served_as_there_are_places(server: Server) -> None:
    """64 run, 128 wait, all others are told at once when to come again."""
    statuses: dict[int, int] = {}
    server.call("load", {"models": ["steady"]})  # while a model loads, nobody runs: 128 wait, and that is all
    with ExitStack() as stack:
        crowd = [stack.enter_context(connect(server)) for _ in range(1000)]
        request = post("steady", FOREVER)
        for connection in crowd:
            connection.sendall(request)
        server.wait_for(
            lambda models: (
                (models.get("steady", {}).get("in_flight"), models["steady"]["queued"]) == (64, 128)
                if "steady" in models
                else False
            ),
            60,
        )
        for connection in crowd:
            connection.setblocking(False)

        def look() -> bool:
            for number, connection in enumerate(crowd):
                if number not in statuses:
                    with suppress(BlockingIOError):
                        head = connection.recv(2000)
                        statuses[number] = int(head.split(b" ")[1])
                        if statuses[number] == 429:
                            assert b"retry-after: 1" in head.lower()
            return len(statuses) >= 1000 - 128

        until(look, timeout_s=60)
        assert sorted(statuses.values()) == [200] * 64 + [429] * (1000 - 64 - 128)
        assert_others_are_served(server)
    until(lambda: in_flight(server, "steady") == 0 and server.ps()["steady"]["queued"] == 0, timeout_s=60)
    assert "Traceback" not in server.log()


# ---------------------------------------------------------------------- descriptors

FEW_FILES = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
sys.argv[0] = "mlxk"
runpy.run_module("mlxk", run_name="__main__", alter_sys=False)
"""


def program(soft: int, hard: int) -> list[str]:
    return ["-c", FEW_FILES.format(soft=soft, hard=hard)]


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit tells of another process on Linux only")
def test_a_low_soft_limit_of_files_is_raised(tmp_path: Path) -> None:
    """A shell on macOS gives 256."""
    server = Server(tmp_path, env={"MLXK_ENGINE": "fake", "MLXK_SPARE": "0"}, program=program(256, 2000))
    try:
        assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (2000, 2000)
    finally:
        server.close()


def test_too_low_a_hard_limit_of_files_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="did not start") as failure:
        Server(tmp_path, env={"MLXK_ENGINE": "fake"}, program=program(100, 100))
    assert "only 100 files may be open" in str(failure.value)
    assert "ulimit -n" in str(failure.value)


def test_at_the_limit_of_files_http_stops_short_of_it(tmp_path: Path) -> None:
    """The rest is for workers, control clients and logs. Of HTTP's clients the first hold what they have, the
    others are told. All of them come at once: libzmq ends the process when it finds no descriptor, even for
    a moment."""
    limit, reserve = 200, 100
    add_fake_model(tmp_path, "slow")
    add_fake_model(tmp_path, "other")
    server = Server(tmp_path, env={"MLXK_ENGINE": "fake", "MLXK_SPARE": "0"}, program=program(limit, limit))
    front = psutil.Process(server.pid)
    try:
        with many_files(), ExitStack() as stack:
            crowd = [stack.enter_context(connect(server)) for _ in range(1500)]
            loaded = server.call("load", {"models": ["slow", "other"]})["models"]
            assert [one["name"] for one in loaded] == ["slow", "other"]
            with ThreadPoolExecutor(20) as pool:
                answers = list(pool.map(lambda _: server.ps(), range(60)))
            assert all(set(one) == {"slow", "other"} for one in answers)
            held = [one.fd for one in front.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]
            assert len(held) > 20
            assert max(held) < limit - reserve
            for connection in crowd[-20:]:
                answer = read_all(connection)
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"retry-after: 1" in answer
            asked = post("slow", 3, stream=False).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            crowd[0].sendall(asked)
            assert b'"text":"w0 w1 w2"' in read_all(crowd[0])
            server.call("stop", {"models": ["other"]})
        until(lambda: front.num_fds() < reserve)
        assert_others_are_served(server)
        assert server.log().count("too many connections are open") == 1
    finally:
        server.close()


def ask_health(connection: socket.socket) -> None:
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while not answer.endswith(b'{"status":"ok"}'):
        piece = connection.recv(4096)
        assert piece, answer
        answer += piece


def test_idle_connections_make_room_for_new_ones(tmp_path: Path) -> None:
    """The oldest ones; those that are being answered stay."""
    add_fake_model(tmp_path, "slow", step_s=0.01)
    server = Server(tmp_path, env={"MLXK_ENGINE": "fake", "MLXK_SPARE": "0"}, program=program(200, 200))
    try:
        with many_files(), ExitStack() as stack:
            stream = stack.enter_context(Request(server, "slow", words=FOREVER, stream=True))
            stream.next_event()
            crowd: list[socket.socket] = []
            for _ in range(150):
                crowd.append(stack.enter_context(connect(server)))
                ask_health(crowd[-1])
            assert crowd[0].recv(10) == b""
            stream.next_event()
            ask_health(crowd[-1])
    finally:
        server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit sets another process's limit on Linux only")
def test_with_hardly_any_descriptor_left_the_front_neither_spins_nor_dies(tmp_path: Path) -> None:
    """Somebody lowers the limit while it runs. The ten that are left are not HTTP's: libzmq needs them, also
    for other servers that start and look whether this one lives. (With none at all, HTTP waits:
    tests/unit/api/test_acceptor.py; but libzmq does not.)"""
    add_fake_model(tmp_path, "slow", step_s=0.05)
    server = Server(tmp_path, env={"MLXK_ENGINE": "fake", "MLXK_SPARE": "0"})
    try:
        with Request(server, "slow", words=FOREVER, stream=True) as stream:
            stream.next_event()
            front = psutil.Process(server.pid)
            _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
            left = front.num_fds() + 10
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (left, hard))
            with ExitStack() as stack:
                crowd = [stack.enter_context(connect(server)) for _ in range(60)]
                assert in_flight(server, "slow") == 1  # a control client takes one of the ten
                for refused in crowd:
                    assert read_all(refused).startswith(b"HTTP/1.1 503 ")
                assert front.cpu_percent(interval=0.5) < 50
            stream.next_event()
            assert in_flight(server, "slow") == 1
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
            assert_others_are_served(server)
    finally:
        server.close()


# ------------------------------------------------------------------------- vanished


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net/tcp")
def test_a_connection_is_watched_by_the_system(server: Server) -> None:
    """It probes while nothing is sent. (All options: tests/unit/api/test_connections.py)"""
    keepalive = "02"
    with connect(server) as connection:
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
