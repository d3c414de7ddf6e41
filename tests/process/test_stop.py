"""Stopping models while others work: what runs is drained or told, and a stop returns after the reap."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.process.client import Request
from tests.process.watch import held, pid_of, until
from tests.server import Server, add_fake_model, is_alive, standing

FOREVER = 1_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("home")
    for name in ("a", "b"):
        add_fake_model(home, name, step_s=0.005)
    add_fake_model(home, "slow", load_s=60)
    add_fake_model(home, "hung", load_hangs=True)
    add_fake_model(home, "deaf", deaf_to_shutdown=True, ignore_sigterm=True)
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_STOP_GRACE": "0.5s"}
    with standing(Server(home, env=env)) as running:
        yield running


def stop(server: Server, *models: str, **args: object) -> list[dict[str, object]]:
    stopped = server.call("stop", {"models": list(models), **args})["models"]
    assert isinstance(stopped, list)
    return stopped


def test_a_stop_returns_after_the_reap_while_another_model_streams_on(server: Server) -> None:
    with Request(server, "a") as request:
        request.text()
    with Request(server, "b", words=FOREVER, stream=True) as stream:
        stream.next_event()
        pid = pid_of(server, "a")
        began = time.monotonic()
        (result,) = stop(server, "a")
        took_s = time.monotonic() - began
        assert not is_alive(pid)
        assert result["stopped"]
        assert isinstance(result["freed_bytes"], int)
        assert result["freed_bytes"] > 1_000_000
        assert took_s < 20, "it waited for the other model's stream: a drain takes 30 s"
        for _ in range(5):
            assert "error" not in stream.next_event()


def test_a_stop_lets_the_running_request_finish(server: Server) -> None:
    with Request(server, "a", words=40, stream=True) as stream:
        stream.next_event()
        stop(server, "a")
        assert stream.last_event()["choices"][0]["finish_reason"] == "length"
    assert "a" not in server.ps()


def test_stop_now_interrupts_and_says_so(server: Server) -> None:
    with Request(server, "a", words=FOREVER, stream=True) as stream:
        stream.next_event()
        stop(server, "a", now=True)
        assert stream.last_event()["error"]["code"] == "model_stopped"


def test_the_drain_of_a_stop_has_a_limit(server: Server) -> None:
    with Request(server, "a", words=FOREVER, stream=True) as stream:
        stream.next_event()
        stop(server, "a", timeout_s=0.2)
        assert stream.last_event()["error"]["code"] == "model_stopped"


def test_a_stop_while_loading_refuses_all_who_wait(server: Server) -> None:
    with Request(server, "slow") as first, Request(server, "slow", stream=True) as second:
        server.wait_for(lambda models: models.get("slow", {}).get("queued") == 2)
        pid = pid_of(server, "slow")
        stop(server, "slow")
        assert not is_alive(pid)
        for request in (first, second):
            assert request.status == 503
            assert request.error()["code"] == "model_stopped"


def test_a_stop_of_a_load_that_hangs_climbs_the_ladder(server: Server) -> None:
    with Request(server, "hung") as request:
        server.wait_for(lambda models: models.get("hung", {}).get("load_progress") is not None)
        pid = pid_of(server, "hung")
        stop(server, "hung")
        assert not is_alive(pid)
        assert request.error()["code"] == "model_stopped"


def test_stopping_what_does_not_run_is_a_success(server: Server) -> None:
    (result,) = stop(server, "a")
    assert not result["stopped"]


def test_a_request_during_a_drain_gets_a_new_worker(server: Server) -> None:
    with (
        Request(server, "a", words=40, stream=True) as old,
        ThreadPoolExecutor(1) as pool,
        ExitStack() as stack,
    ):
        old.next_event()
        pid = pid_of(server, "a")
        with held(pid):
            stopping = pool.submit(stop, server, "a")
            until(lambda: server.ps()["a"]["state"] == "stopping")
            new = stack.enter_context(Request(server, "a"))
            server.wait_for(lambda models: models["a"]["queued"] == 1)
        new.text()
        assert stopping.result()[0]["stopped"]
        assert "error" not in old.last_event()
        assert pid_of(server, "a") != pid


def test_a_request_during_the_stop_ladder_of_a_deaf_worker_gets_a_new_one(server: Server) -> None:
    """The unload is never given up, and never waited for in vain."""
    with Request(server, "deaf") as request:
        request.text()
    pid = pid_of(server, "deaf")
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(stop, server, "deaf")
        # The ladder takes a second: it may be over before we look again.
        until(lambda: server.ps().get("deaf", {}).get("state") != "ready")
        with Request(server, "deaf") as request:
            request.text()
        assert stopping.result()[0]["stopped"]
    assert not is_alive(pid)
    assert pid_of(server, "deaf") != pid


def test_requests_that_race_the_unload_after_each_reply_are_all_answered(server: Server) -> None:
    for _ in range(10):
        with Request(server, "a", words=1, keep_alive=0) as request:
            assert request.text() == "w0"


def test_several_stops_of_one_model_all_return(server: Server) -> None:
    with Request(server, "a") as request:
        request.text()
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: stop(server, "a"), range(3)))
    assert any(result[0]["stopped"] for result in results)


def test_stop_all_leaves_the_server_without_workers(server: Server) -> None:
    for name in ("a", "b"):
        with Request(server, name) as request:
            request.text()
    result = server.cli("stop", "--all")
    assert result.returncode == 0, result.stderr
    assert server.worker_pids() == []
