"""Every way to end the server in order: what runs is told or finished, nothing is left behind."""

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
from tests.process.watch import assert_nothing_left, until, workers_of
from tests.server import add_fake_model, is_alive, wait_gone

FOREVER = 1_000_000
INTERRUPTED = 130


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name, step_s=0.005)
    add_fake_model(tmp_path, "slow", load_s=60)
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
    assert time.monotonic() - began < 5
    assert_nothing_left(server)
    assert "Traceback" not in server.log()


def test_a_second_ctrl_c_kills_the_workers_and_leaves_at_once(home: Path, start: StartServer) -> None:
    server = start("deaf")
    server.wait_for(lambda models: models.get("deaf", {}).get("state") == "ready")
    workers = workers_of(server)
    server.signal(signal.SIGINT)
    server.wait_for(lambda models: models["deaf"]["state"] == "stopping")
    began = time.monotonic()
    server.signal(signal.SIGINT)
    assert server.wait() == INTERRUPTED
    assert time.monotonic() - began < 1.5
    assert wait_gone(workers, 2) == []
    assert_nothing_left(server)


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


def test_a_server_outlives_its_terminal(home: Path, start: StartServer) -> None:
    server = start()
    server.signal(signal.SIGHUP)
    with Request(server, "a", words=2) as request:
        assert request.text() == "w0 w1"


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


# --------------------------------------------------------------------- during the start


class Starting:
    """A server that is not ready yet."""

    def __init__(self, home: Path) -> None:
        self.home = home
        env = {**os.environ, "MLXK_HOME": str(home), "HF_HOME": str(home / "hf"), "MLXK_ENGINE": "fake"}
        command = [sys.executable, "-P", "-m", "mlxk", "serve", "--port", "0", "slow"]
        self.log_path = home / "serve.out"
        with self.log_path.open("wb") as output:
            self.process = subprocess.Popen(command, env=env, stdout=output, stderr=output)

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", ["lock", "instance.json"], ids=["before it listens", "just announced"])
def test_ctrl_c_during_the_start(home: Path, socket_root: Path, file: str) -> None:
    before = set(socket_root.glob("mlxk-*"))
    starting = Starting(home)
    with contextlib.ExitStack() as stack:
        stack.callback(starting.process.wait)
        stack.callback(starting.process.kill)
        until(lambda: (home / file).exists() or starting.process.poll() is not None)
        starting.process.send_signal(signal.SIGINT)
        assert starting.process.wait(10) == INTERRUPTED, starting.log()
    assert "Traceback" not in starting.log()
    assert not (home / "instance.json").exists()
    assert set(socket_root.glob("mlxk-*")) <= before


def test_a_start_that_is_refused_ends_at_once_and_leaves_nothing(home: Path, socket_root: Path) -> None:
    """Not loopback, and no key: found when the sockets are there already."""
    before = set(socket_root.glob("mlxk-*"))
    env = {**os.environ, "MLXK_HOME": str(home), "MLXK_ENGINE": "fake"}
    command = [sys.executable, "-P", "-m", "mlxk", "serve", "--host", "0.0.0.0", "--port", "0"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert set(socket_root.glob("mlxk-*")) <= before


def test_a_taken_port_is_a_clear_error(home: Path, start: StartServer) -> None:
    server = start()
    port = server.url.rpartition(":")[2]
    env = {**server.env, "MLXK_HOME": str(home / "other")}
    command = [sys.executable, "-P", "-m", "mlxk", "serve", "--port", port]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 1
    assert port in result.stderr
    assert "--port" in result.stderr
    assert "Traceback" not in result.stderr
