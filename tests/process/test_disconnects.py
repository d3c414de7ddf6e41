"""A client leaves at some stage: its work ends within a step, and a load goes on only for those who stay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.client import Request
from tests.process.watch import pid_of, until
from tests.server import Server, add_fake_model, is_alive, standing

FOREVER = 1_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("home")
    add_fake_model(home, "a", step_s=0.005)
    add_fake_model(home, "never", load_s=60)
    add_fake_model(home, "slow", load_s=2.5)
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_MAX_BATCH": "1"}
    with standing(Server(home, env=env)) as running:
        yield running


def in_flight(server: Server) -> int:
    count = server.ps()["a"]["in_flight"]
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "whole"])
def test_who_leaves_while_it_runs_frees_the_slot(server: Server, stream: bool) -> None:
    with Request(server, "a", words=FOREVER, stream=stream):
        server.wait_for(lambda models: models.get("a", {}).get("in_flight") == 1)
        pid = pid_of(server, "a")
    assert until(lambda: in_flight(server) == 0) < 2
    assert pid_of(server, "a") == pid


def test_who_leaves_the_queue_of_a_busy_model_is_not_served_later(server: Server) -> None:
    with Request(server, "a", words=FOREVER, stream=True) as running:
        running.next_event()
        with Request(server, "a", words=FOREVER):
            server.wait_for(lambda models: models["a"]["queued"] == 1)
        until(lambda: server.ps()["a"]["queued"] == 0)
    with Request(server, "a") as request:
        request.text()


def test_a_load_is_abandoned_when_its_only_waiter_has_left(server: Server) -> None:
    with Request(server, "never"):
        server.wait_for(lambda models: models.get("never", {}).get("load_progress") is not None)
        pid = pid_of(server, "never")
    until(lambda: not is_alive(pid), timeout_s=5)
    until(lambda: "never" not in server.ps())


def test_a_load_goes_on_for_the_waiter_who_stays(server: Server) -> None:
    with Request(server, "slow") as stays:
        with Request(server, "slow"):
            server.wait_for(lambda models: models.get("slow", {}).get("queued") == 2)
            pid = pid_of(server, "slow")
        assert stays.text()
    assert pid_of(server, "slow") == pid


def test_many_clients_that_leave_at_once_leave_nothing_behind(server: Server) -> None:
    requests = [Request(server, "a", words=FOREVER, stream=number % 2 == 0) for number in range(30)]
    server.wait_for(lambda models: models["a"]["queued"] >= 20)
    for number, request in enumerate(requests):
        request.hang_up()
        if number % 10 == 0:
            time.sleep(0.02)  # so that they leave at different stages
    server.wait_for(lambda models: not models["a"]["queued"] and not models["a"]["in_flight"])
    with Request(server, "a", words=2) as request:
        assert request.text() == "w0 w1"
