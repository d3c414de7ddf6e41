"""kill -9 of the front, at every stage: its workers see their lifeline end, and the next start is clean."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.process.client import Request
from tests.process.conftest import StartServer
from tests.process.watch import clean_up_after_kill, run_dir, until, workers_of
from tests.server import Server, add_fake_model, wait_gone

LIMIT_S = 10.0
"""They leave within milliseconds, where they get a core; who did not notice would stay for a minute."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    add_fake_model(tmp_path, "a", step_s=0.005)
    add_fake_model(tmp_path, "slow", load_s=60)
    add_fake_model(tmp_path, "parent", grandchild=True)
    add_fake_model(tmp_path, "prompt", prefill_steps=1000, prefill_step_s=1.0)
    add_fake_model(tmp_path, "deaf", deaf_to_shutdown=True, ignore_sigterm=True)
    return tmp_path


def kill(server: Server) -> list[int]:
    """kill -9; returns the workers that it had."""
    workers = workers_of(server)
    server.signal(signal.SIGKILL)
    server.wait(5)
    return workers


def assert_no_orphans(server: Server, workers: list[int]) -> None:
    assert workers
    assert wait_gone(workers, LIMIT_S) == []
    assert workers_of(server) == []  # nor one that was spawned in the last moment
    clean_up_after_kill(server)


def test_idle_with_a_spare(home: Path, start: StartServer) -> None:
    server = start("a", spare="1")
    server.wait_for(lambda models: models.get("a", {}).get("state") == "ready")
    until(lambda: len(server.worker_pids()) == 2)
    assert_no_orphans(server, kill(server))


def test_while_a_worker_is_being_spawned(home: Path, start: StartServer) -> None:
    server = start("a")
    until(lambda: workers_of(server))  # before its `exec` it is not yet to be known as a worker
    assert_no_orphans(server, kill(server))


def test_within_100_ms_of_a_spawn(home: Path, start: StartServer) -> None:
    """The worker is an interpreter that has not run a line yet, or one in the middle of its imports."""
    for moment_s in (0.0, 0.005, 0.02, 0.05, 0.1):
        server = start("a")
        until(lambda server=server: "spawned w" in server.log())
        time.sleep(moment_s)  # the moment is what is tested
        server.signal(signal.SIGKILL)
        server.wait(5)
        until(lambda server=server: workers_of(server) == [], timeout_s=LIMIT_S)
        clean_up_after_kill(server)


def test_with_a_worker_that_has_a_child_of_its_own(home: Path, start: StartServer) -> None:
    server = start("parent")
    server.wait_for(lambda models: models.get("parent", {}).get("state") == "ready")
    (worker,) = workers_of(server)
    (grandchild,) = (child.pid for child in psutil.Process(worker).children())
    assert_no_orphans(server, [*kill(server), grandchild])


def test_while_requests_are_drained(home: Path, start: StartServer) -> None:
    server = start()
    with Request(server, "a", words=1_000_000, stream=True) as stream:
        stream.next_event()
        server.signal(signal.SIGTERM)
        until(lambda: not server.call("ping")["ready"])
        assert_no_orphans(server, kill(server))


def test_in_the_middle_of_a_prefill(home: Path, start: StartServer) -> None:
    server = start()
    with Request(server, "prompt", stream=True):
        server.wait_for(lambda models: models.get("prompt", {}).get("in_flight") == 1)
        assert_no_orphans(server, kill(server))


def test_while_a_model_loads(home: Path, start: StartServer) -> None:
    server = start("slow")
    server.wait_for(lambda models: models.get("slow", {}).get("load_progress"))
    assert_no_orphans(server, kill(server))


def test_while_a_model_streams(home: Path, start: StartServer) -> None:
    server = start()
    with Request(server, "a", words=1_000_000, stream=True) as stream:
        stream.next_event()
        assert_no_orphans(server, kill(server))


def test_while_it_waits_for_a_deaf_worker(home: Path, start: StartServer) -> None:
    server = start("deaf", stop_grace="60s")
    server.wait_for(lambda models: models.get("deaf", {}).get("state") == "ready")
    server.call("stop", {"now": True})
    server.wait_for(lambda models: models["deaf"]["state"] == "stopping")
    assert_no_orphans(server, kill(server))


@pytest.mark.alone
def test_the_next_server_sweeps_up_what_is_left(home: Path, start: StartServer) -> None:
    """Also a worker that could not notice: it is stopped by a signal."""
    server = start("a")
    server.wait_for(lambda models: models.get("a", {}).get("state") == "ready")
    (worker,) = workers_of(server)
    os.kill(worker, signal.SIGSTOP)
    kill(server)
    assert (home / "instance.json").exists()
    successor = start()
    assert wait_gone([worker], LIMIT_S) == []
    assert not run_dir(server).exists()
    with Request(successor, "a", words=2) as request:
        assert request.text() == "w0 w1"
