"""The warm spare, and workers that do not even start."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.process.client import Request
from tests.process.conftest import StartServer
from tests.process.watch import count_spawns, pid_of, until
from tests.server import Server, add_fake_model, is_alive


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name)
    return tmp_path


def warm_spare(server: Server, *, other_than: int = 0) -> int:
    """Waits for a warm spare; its pid."""
    pids: list[int] = []

    def is_there() -> bool:
        spare = server.call("ps")["server"]["spare"]
        if spare and spare["warm"] and spare["pid"] != other_than:
            pids.append(spare["pid"])
        return bool(pids)

    until(is_there)
    return pids[0]


def test_the_first_load_takes_the_spare_and_a_new_one_is_made(home: Path, start: StartServer) -> None:
    server = start(spare="1")
    first = warm_spare(server)
    with Request(server, "a") as request:
        request.text()
    assert pid_of(server, "a") == first
    second = warm_spare(server, other_than=first)
    with Request(server, "b") as request:
        request.text()
    assert pid_of(server, "b") == second


def test_a_spare_that_dies_is_replaced(home: Path, start: StartServer) -> None:
    server = start(spare="1")
    dead = warm_spare(server)
    os.kill(dead, signal.SIGKILL)
    warm_spare(server, other_than=dead)
    with Request(server, "a") as request:
        request.text()


def test_a_worker_that_dies_at_its_start_is_told_with_its_last_words(home: Path, start: StartServer) -> None:
    server = start(fake_start=json.dumps({"die": 3}))
    with Request(server, "a") as request:
        error = request.error()
    assert request.status == 503
    assert error["code"] == "model_load_failed"
    assert "dying at start" in error["message"]
    assert "exit code 3" in error["message"]
    assert server.worker_pids() == []


def test_a_worker_that_dies_at_hello_is_told_with_its_last_words(home: Path, start: StartServer) -> None:
    """Right after it has said it: the load may have been ordered already, or not."""
    server = start(fake_start=json.dumps({"die_at_hello": 4}))
    with Request(server, "a") as request:
        error = request.error()
    assert request.status == 503
    assert error["code"] == "model_load_failed"
    assert "dying at Hello" in error["message"]
    assert "exit code 4" in error["message"]
    until(lambda: server.worker_pids() == [])


def test_a_worker_that_hangs_before_its_first_word_is_ended(home: Path, start: StartServer) -> None:
    server = start(fake_start=json.dumps({"hang": True}), start_timeout="500ms")
    with Request(server, "a") as request:
        error = request.error()
    (pid,) = map(int, re.findall(r"spawned w\d+ \(pid (\d+)\)", server.log()))
    assert request.status == 503
    assert "did not start" in error["message"]
    until(lambda: not is_alive(pid))


def test_spares_that_cannot_start_are_not_spawned_in_a_loop(home: Path, start: StartServer) -> None:
    server = start(spare="1", fake_start=json.dumps({"hang": True}), start_timeout="50ms")
    until(lambda: count_spawns(server) >= 3)
    assert server.log().count("the spare worker died") >= 2
    assert count_spawns(server) <= 4  # by now each waits longer than the one before
