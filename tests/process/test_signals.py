"""The signals of a running server, by what it is at: the table of docs/signals.md. What runs is told or
finished, nothing is left behind. (During the start: test_signals_start; with a stuck loop: test_watchdog; a
reload: test_reload.)"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.process.client import Request
from tests.process.conftest import StartServer
from tests.process.watch import assert_nothing_left, held, pid_of, press_again, until, workers_of
from tests.server import add_fake_model, is_alive, wait_gone

FOREVER = 1_000_000
INTERRUPTED = 130


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name, step_s=0.005)
    add_fake_model(tmp_path, "slow", load_s=60)
    gate = str(tmp_path / "gate")
    add_fake_model(tmp_path, "loading", load_until=gate)
    add_fake_model(tmp_path, "prompt", prefill_steps=20, prefill_step_s=0.05, prefill_until=gate)
    add_fake_model(tmp_path, "endless-prompt", prefill_steps=FOREVER, prefill_step_s=0.05)
    add_fake_model(tmp_path, "deaf", deaf_to_shutdown=True, ignore_sigterm=True)
    return tmp_path


def test_ctrl_c_tells_every_client_and_leaves_nothing(home: Path, start: StartServer) -> None:
    server = start(spare="1")
    with (
        Request(server, "a", words=FOREVER, stream=True) as first,
        Request(server, "b", words=FOREVER, stream=True) as second,
        Request(server, "a", words=FOREVER) as whole,
        Request(server, "slow") as queued,
    ):
        for stream in (first, second):
            stream.next_event()
        server.wait_for(lambda models: models["a"]["in_flight"] == 2 and "slow" in models)
        began = time.monotonic()
        server.signal(signal.SIGINT)
        for stream in (first, second):
            assert stream.last_event()["error"]["code"] == "shutting_down"
        for request in (whole, queued):
            assert request.error()["code"] == "shutting_down"
            assert request.status == 503
        assert server.wait() == INTERRUPTED
    assert time.monotonic() - began < 15, "it was the watchdog, or the whole of the workers' ladder"
    assert_nothing_left(server)
    assert "Traceback" not in server.log()


def test_a_second_ctrl_c_kills_the_workers_and_leaves_at_once(home: Path, start: StartServer) -> None:
    server = start("deaf")
    server.wait_for(lambda models: models.get("deaf", {}).get("state") == "ready")
    workers = workers_of(server)
    server.signal(signal.SIGINT)
    server.wait_for(lambda models: models["deaf"]["state"] == "stopping")
    began = time.monotonic()
    press_again(server.process)
    assert server.wait() == INTERRUPTED
    assert time.monotonic() - began < 5, "it was the ladder: 3 s for each of two steps"
    assert wait_gone(workers, 2) == []
    assert_nothing_left(server)
    assert "the server ends: SIGINT\n" in server.log()
    assert "the server leaves at once: a second SIGINT\n" in server.log()


def test_ctrl_c_ends_a_deaf_worker_by_the_ladder(home: Path, start: StartServer) -> None:
    server = start("deaf", stop_grace="300ms")
    server.wait_for(lambda models: models.get("deaf", {}).get("state") == "ready")
    server.signal(signal.SIGINT)
    assert server.wait(15) == INTERRUPTED
    assert_nothing_left(server)


def test_sigterm_lets_the_running_request_finish_and_refuses_new_ones(home: Path, start: StartServer) -> None:
    server = start()
    with Request(server, "a", words=150, stream=True) as running:
        running.next_event()
        with held(pid_of(server, "a")):
            server.signal(signal.SIGTERM)
            until(lambda: not server.call("ping")["ready"])
            with Request(server, "a") as late:
                assert late.error()["code"] == "shutting_down"
                assert late.status == 503
                assert late.response.headers["Retry-After"]
        last = running.last_event()
        assert last["choices"][0]["finish_reason"] == "length"
        assert last["usage"]["completion_tokens"] == 150
        assert server.wait() == 0
    assert_nothing_left(server)


def test_a_drain_has_a_limit(home: Path, start: StartServer) -> None:
    server = start(drain_timeout="200ms")
    with Request(server, "a", words=FOREVER, stream=True) as running:
        running.next_event()
        server.signal(signal.SIGTERM)
        assert running.last_event()["error"]["code"] == "shutting_down"
        assert server.wait() == 0
    assert_nothing_left(server)


def test_ctrl_c_cuts_a_drain_short(home: Path, start: StartServer) -> None:
    server = start()
    with Request(server, "a", words=FOREVER, stream=True) as running:
        running.next_event()
        server.signal(signal.SIGTERM)
        until(lambda: not server.call("ping")["ready"])
        server.signal(signal.SIGINT)
        assert running.last_event()["error"]["code"] == "shutting_down"
        assert server.wait(10) == INTERRUPTED
    assert_nothing_left(server)
    assert "the server ends: SIGTERM\n" in server.log()
    assert "its end is hastened: SIGINT\n" in server.log()


def test_a_second_sigterm_does_not_cut_the_drain_short(home: Path, start: StartServer) -> None:
    server = start()
    with Request(server, "a", words=100, stream=True) as running:
        running.next_event()
        with held(pid_of(server, "a")):
            server.signal(signal.SIGTERM)
            until(lambda: not server.call("ping")["ready"])
            server.signal(signal.SIGTERM)
        assert running.last_event()["choices"][0]["finish_reason"] == "length"
        assert server.wait() == 0
    assert_nothing_left(server)


def test_two_ctrl_c_during_a_drain_end_at_once(home: Path, start: StartServer) -> None:
    server = start("deaf", "a")
    server.wait_for(lambda models: models.get("deaf", {}).get("state") == "ready")
    workers = workers_of(server)
    with Request(server, "a", words=FOREVER, stream=True) as running:
        running.next_event()
        server.signal(signal.SIGTERM)
        until(lambda: not server.call("ping")["ready"])
        server.signal(signal.SIGINT)
        server.wait_for(lambda models: models["deaf"]["state"] == "stopping")
        press_again(server.process)
        assert server.wait(5) == INTERRUPTED
    assert wait_gone(workers, 2) == []
    assert_nothing_left(server)


def test_a_sighup_during_a_drain_does_not_disturb_it(home: Path, start: StartServer) -> None:
    server = start()
    with Request(server, "a", words=100, stream=True) as running:
        running.next_event()
        with held(pid_of(server, "a")):
            server.signal(signal.SIGTERM)
            until(lambda: not server.call("ping")["ready"])
            server.signal(signal.SIGHUP)
        assert running.last_event()["choices"][0]["finish_reason"] == "length"
        assert server.wait() == 0
    assert_nothing_left(server)


def test_sigterm_during_the_end_by_ctrl_c_changes_nothing(home: Path, start: StartServer) -> None:
    server = start()
    with Request(server, "a", words=FOREVER, stream=True) as running:
        running.next_event()
        server.signal(signal.SIGINT)
        server.signal(signal.SIGTERM)
        assert running.last_event()["error"]["code"] == "shutting_down"
        assert server.wait(10) == INTERRUPTED
    assert_nothing_left(server)


def test_ctrl_c_during_a_load(home: Path, start: StartServer) -> None:
    server = start("slow")
    server.wait_for(lambda models: models.get("slow", {}).get("load_progress"))
    server.signal(signal.SIGINT)
    assert server.wait(10) == INTERRUPTED
    assert_nothing_left(server)
    assert "ERROR" not in server.log()  # that the preload was given up is no failure


def test_sigterm_ends_an_idle_server(home: Path, start: StartServer) -> None:
    server = start("a", spare="1")
    server.wait_for(lambda models: models.get("a", {}).get("state") == "ready")
    until(lambda: len(server.worker_pids()) == 2)
    server.signal(signal.SIGTERM)
    assert server.wait(10) == 0
    assert_nothing_left(server)
    assert "ERROR" not in server.log()  # the end of its spare is none
    assert "the server ends: SIGTERM\n" in server.log()


def test_sigterm_during_a_load_waits_for_whom_it_is(home: Path, start: StartServer) -> None:
    server = start()
    with Request(server, "loading", words=2) as request:
        server.wait_for(lambda models: models.get("loading", {}).get("load_progress"))
        server.signal(signal.SIGTERM)
        until(lambda: not server.call("ping")["ready"])
        (home / "gate").touch()
        assert request.text() == "w0 w1"
        assert server.wait() == 0
    assert_nothing_left(server)


def test_sigterm_during_a_load_that_nobody_waits_for_ends_it(home: Path, start: StartServer) -> None:
    server = start("slow")
    server.wait_for(lambda models: models.get("slow", {}).get("load_progress"))
    server.signal(signal.SIGTERM)
    assert server.wait(10) == 0
    assert_nothing_left(server)


def test_ctrl_c_during_a_prefill(home: Path, start: StartServer) -> None:
    server = start()
    with Request(server, "endless-prompt", stream=True) as request:
        server.wait_for(lambda models: models.get("endless-prompt", {}).get("in_flight") == 1)
        server.signal(signal.SIGINT)
        assert request.last_error()["code"] == "shutting_down"
        assert server.wait(10) == INTERRUPTED
    assert_nothing_left(server)


def test_sigterm_during_a_prefill_lets_the_request_finish(home: Path, start: StartServer) -> None:
    server = start()
    with Request(server, "prompt", words=2) as request:
        server.wait_for(lambda models: models.get("prompt", {}).get("in_flight") == 1)
        server.signal(signal.SIGTERM)
        until(lambda: not server.call("ping")["ready"])
        (home / "gate").touch()
        assert request.text() == "w0 w1"
        assert server.wait() == 0
    assert_nothing_left(server)


def test_sigterm_ends_a_deaf_worker_by_the_ladder(home: Path, start: StartServer) -> None:
    server = start("deaf", stop_grace="300ms")
    server.wait_for(lambda models: models.get("deaf", {}).get("state") == "ready")
    server.signal(signal.SIGTERM)
    assert server.wait(15) == 0
    assert_nothing_left(server)


def test_ctrl_c_with_a_worker_that_is_stopped_by_a_signal(home: Path, start: StartServer) -> None:
    """It can neither hear nor obey: only SIGKILL ends it."""
    server = start("a", stop_grace="300ms")
    server.wait_for(lambda models: models.get("a", {}).get("state") == "ready")
    (worker,) = workers_of(server)
    os.kill(worker, signal.SIGSTOP)
    server.signal(signal.SIGINT)
    assert server.wait(15) == INTERRUPTED
    assert_nothing_left(server)


def test_the_timeout_of_mlxk_stop_limits_the_servers_drain(home: Path, start: StartServer) -> None:
    server = start(drain_timeout="1h")
    with Request(server, "a", words=FOREVER, stream=True) as running:
        running.next_event()
        result = server.cli("stop", "--timeout", "300ms")
        assert result.returncode in (0, 5), result.stderr  # 5: it was not gone as soon as its requests were
        assert running.last_event()["error"]["code"] == "shutting_down"
        assert server.wait(10) == 0
    assert_nothing_left(server)


def test_a_short_timeout_of_mlxk_stop_does_not_lose_the_order(home: Path, start: StartServer) -> None:
    """The server stands still for longer than that when it is told."""
    server = start()
    command = [sys.executable, "-P", "-m", "mlxk", "stop", "--timeout", "100ms"]
    with held(server.pid):
        stopping = subprocess.Popen(command, env=server.env, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            stopping.wait(2)  # how long it stands still
    assert stopping.wait(30) in (0, 5)
    assert server.wait() == 0
    assert_nothing_left(server)


def test_a_later_mlxk_stop_with_a_timeout_shortens_a_drain_and_does_not_end_it_at_once(
    home: Path, start: StartServer
) -> None:
    server = start(drain_timeout="1h")
    with (
        Request(server, "a", words=FOREVER, stream=True) as endless,
        Request(server, "b", words=60, stream=True) as short,
    ):
        endless.next_event()
        short.next_event()
        server.signal(signal.SIGTERM)
        until(lambda: not server.call("ping")["ready"])
        server.call("stop", {"timeout_s": 3.0})
        assert short.last_event()["choices"][0]["finish_reason"] == "length"
        assert endless.last_event()["error"]["code"] == "shutting_down"
        assert server.wait(10) == 0
    assert_nothing_left(server)


def test_mlxk_stop_ends_the_server_and_every_file(home: Path, start: StartServer) -> None:
    server = start(spare="1")
    with Request(server, "a") as request:
        request.text()
    workers = workers_of(server)
    result = server.cli("stop")
    assert result.returncode == 0, result.stderr
    assert not any(map(is_alive, workers))
    assert server.wait(5) == 0
    assert_nothing_left(server)
    assert not list(home.glob("instance.json*"))


def test_mlxk_stop_waits_for_what_runs_and_now_does_not(home: Path, start: StartServer) -> None:
    server = start()
    with Request(server, "a", words=FOREVER, stream=True) as running:
        running.next_event()
        server.call("stop", {})
        until(lambda: not server.call("ping")["ready"])
        assert "error" not in running.next_event()
        server.call("stop", {"now": True})
        assert running.last_event()["error"]["code"] == "shutting_down"
        assert server.wait(10) == 0
    assert_nothing_left(server)
