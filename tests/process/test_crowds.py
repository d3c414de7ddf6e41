"""Clients in crowds, and few descriptors for them: as many are served as there are places, all others are
told, and nobody else notices."""

from __future__ import annotations

import resource
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from tests.process.client import Request
from tests.process.sockets import (
    FOREVER,
    assert_others_are_served,
    connect,
    in_flight,
    many_files,
    post,
    read_all,
)
from tests.process.watch import until
from tests.server import Server, add_fake_model, standing


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    add_fake_model(home, "steady", step_s=0.002)
    add_fake_model(home, "slow", step_s=0.05)
    # Nobody here reads its stream, and none of them may lose its place for that before all have been counted.
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_SEND_TIMEOUT": "10m"}
    with many_files(), standing(Server(home, env=env)) as running:
        yield running


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
