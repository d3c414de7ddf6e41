"""Several models at once on one server: loads, limits, restarts, and what touches nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.process.client import Request, ask_all
from tests.process.watch import count_spawns, pid_of, until
from tests.server import Server, add_fake_model, is_alive, standing

QUEUE = 8
GATE = "gate"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("home")
    for name in ("a", "b", "cold", "brief", "again"):
        add_fake_model(home, name)
    add_fake_model(home, "slow", load_until=str(home / GATE))
    add_fake_model(home, "picky", fail_request="poison")
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_QUEUE_PER_MODEL": str(QUEUE)}
    with standing(Server(home, env=env)) as running:
        yield running


@pytest.fixture
def gate(server: Server) -> Iterator[Path]:
    """The model "slow" is not loaded, and no load of it ends before this file is there."""
    path = server.home / GATE
    path.unlink(missing_ok=True)
    server.call("stop", {"models": ["slow"]})
    yield path
    path.touch()


def test_many_requests_for_a_cold_model_spawn_one_worker_and_load_once(server: Server) -> None:
    before = count_spawns(server)
    answers = ask_all(server, ["cold"] * QUEUE)
    assert [status for status, _ in answers] == [200] * QUEUE
    assert count_spawns(server) == before + 1
    assert server.log().count("cold is ready") == 1


def test_two_models_answer_at_once_from_two_processes(server: Server) -> None:
    with (
        Request(server, "a", words=100_000, stream=True) as first,
        Request(server, "b", words=100_000, stream=True) as second,
    ):
        for stream in (first, second, first, second):
            assert "error" not in stream.next_event()
        assert pid_of(server, "a") != pid_of(server, "b")


def test_the_same_request_has_the_same_answer(server: Server) -> None:
    with Request(server, "a", words=3) as first, Request(server, "a", words=3) as second:
        assert first.text() == second.text() == "w0 w1 w2"


def test_a_mistyped_name_is_a_404_and_touches_nothing(server: Server) -> None:
    with Request(server, "a") as request:
        request.text()
    before = count_spawns(server), set(server.ps()), server.worker_pids()
    with Request(server, "aa") as request:
        error = request.error()
    assert request.status == 404
    assert error["code"] == "model_not_found"
    assert (count_spawns(server), set(server.ps()), server.worker_pids()) == before


def test_who_finds_the_queue_full_is_told_when_to_come_back(server: Server, gate: Path) -> None:
    with ExitStack() as stack:
        requests = [stack.enter_context(Request(server, "slow")) for _ in range(QUEUE + 2)]
        until(lambda: sum(request.is_answered for request in requests) == 2)
        refused = [request for request in requests if request.is_answered]
        assert [request.error()["code"] for request in refused] == ["queue_full"] * 2
        gate.touch()
        for request in requests:
            assert request in refused or request.text()


def test_a_full_queue_is_a_429_with_retry_after(server: Server, gate: Path) -> None:
    with ExitStack() as stack:
        waiting = [stack.enter_context(Request(server, "slow")) for _ in range(QUEUE)]
        until(lambda: server.ps().get("slow", {}).get("queued") == QUEUE)
        with Request(server, "slow") as late:
            assert late.status == 429
            assert int(late.response.headers["Retry-After"]) >= 1
            late.json()
        gate.touch()
        for request in waiting:
            request.text()


def test_a_request_that_fails_fails_alone(server: Server) -> None:
    with (
        Request(server, "picky", words=30, stream=True) as healthy,
        Request(server, "picky", prompt="poison") as sick,
    ):
        assert sick.error()["code"] == "engine_error"
        assert healthy.last_event()["choices"][0]["finish_reason"] == "length"
    assert server.ps()["picky"]["restarts"] == 0


def test_keep_alive_zero_unloads_after_the_reply(server: Server) -> None:
    with Request(server, "brief", keep_alive=0) as request:
        request.text()
    until(lambda: "brief" not in server.ps())


def test_keep_alive_counts_from_the_end_of_the_last_request(server: Server) -> None:
    with Request(server, "brief", keep_alive="30s") as request:
        request.text()
    assert 0 <= server.ps()["brief"]["until"] <= 30
    with Request(server, "brief", keep_alive="5m") as request:
        request.text()
    assert server.ps()["brief"]["until"] > 200


def test_restart_gives_the_model_a_new_process(server: Server) -> None:
    with Request(server, "again") as request:
        request.text()
    old = pid_of(server, "again")
    (result,) = server.call("restart", {"models": ["again"]})["models"]
    assert result["name"] == "again"
    assert result["freed_bytes"] > 0
    assert pid_of(server, "again") != old
    assert not is_alive(old)


def test_explicit_load_says_whether_it_was_needed(server: Server) -> None:
    server.call("stop", {"models": ["a"]})
    for expected in (False, True):
        (loaded,) = server.call("load", {"models": ["a"]})["models"]
        assert loaded["already_loaded"] is expected
        assert loaded["memory_bytes"] > 0


def test_an_unknown_name_among_several_stops_nothing(server: Server) -> None:
    server.call("load", {"models": ["a"]})
    result = server.cli("stop", "a", "nonsense")
    assert result.returncode == 4
    assert server.ps()["a"]["state"] == "ready"
