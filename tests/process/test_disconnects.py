"""A client leaves at some stage: its work ends within a step, and a load goes on only for those who stay."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil
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
    add_fake_model(home, "slow", load_s=2.5, load_until=str(home / "gate"))
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
    until(lambda: in_flight(server) == 0)  # to its end it would take more than an hour
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
    until(lambda: not is_alive(pid), timeout_s=30)  # half of what the load would take
    until(lambda: "never" not in server.ps())


def test_a_load_goes_on_for_the_waiter_who_stays(server: Server) -> None:
    with Request(server, "slow") as stays:
        with Request(server, "slow"):
            server.wait_for(lambda models: models.get("slow", {}).get("queued") == 2)
            pid = pid_of(server, "slow")
        server.wait_for(lambda models: models["slow"]["queued"] == 1)
        (server.home / "gate").touch()
        assert stays.text()
    assert pid_of(server, "slow") == pid


N_CLIENTS = 200
N_AT_ONCE = 12
SEED = 20261121
STAGES = ("at once", "queued or loading", "prefill", "decode", "stays")


class Count(NamedTuple):
    """Everything that a request could leave behind in a front and its workers."""

    descriptors: int
    threads: int
    worker_descriptors: int
    worker_threads: int
    work: dict[str, int]
    """Jobs, mailboxes, waiters, leases, sequences in the workers, and tasks."""


def take_count(server: Server, work: dict[str, int]) -> Count:
    front = psutil.Process(server.pid)
    workers = [psutil.Process(pid) for pid in server.worker_pids()]
    return Count(
        front.num_fds(),
        front.num_threads(),
        sum(worker.num_fds() for worker in workers),
        sum(worker.num_threads() for worker in workers),
        work,
    )


def leave_at_some_stage(server: Server, seed: int) -> str:
    dice = random.Random(seed)
    stage = dice.choice(STAGES)
    stream = dice.random() < 0.6
    words = 3 if stage == "stays" else FOREVER
    model = dice.choice(["a", "a", "prompt", "prompt", "again"])
    keep_alive = {"keep_alive": 0} if model == "again" else {}  # so that it is loaded again and again
    with Request(server, model, words=words, stream=stream, **keep_alive) as request:
        if stage == "stays" and stream:
            request.last_event()
        elif stage == "stays":
            request.text()
        elif stage == "decode" and stream:
            request.next_event()
        elif stage != "at once":
            time.sleep(dice.uniform(0, 0.05 if stage == "prefill" else 0.2))  # how long it stays, no wait
    return stage


def test_200_clients_that_leave_at_random_stages_leave_nothing(
    tmp_path: Path, clean_environment: None
) -> None:
    """No task, thread, descriptor or byte; and who stays is served among them."""
    add_fake_model(tmp_path, "a", step_s=0.002)
    add_fake_model(tmp_path, "prompt", step_s=0.002, prefill_steps=10, prefill_step_s=0.01)
    add_fake_model(tmp_path, "again", load_s=0.05)
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_MAX_BATCH": "4", "MLXK_QUEUE_PER_MODEL": "500"}
    server = Server(tmp_path, env=env)
    try:
        with ThreadPoolExecutor(N_AT_ONCE) as pool:

            def send_away(seeds: range) -> list[str]:
                return list(pool.map(lambda seed: leave_at_some_stage(server, seed), seeds))

            send_away(range(SEED, SEED + 40))  # what is made once is made now: threads of a pool, buffers
            before = settled_count(server)
            bytes_before = psutil.Process(server.pid).memory_info().rss
            stages = send_away(range(SEED + 40, SEED + 40 + N_CLIENTS))
        assert set(stages) == set(STAGES)
        after = settled_count(server)
        grown = psutil.Process(server.pid).memory_info().rss - bytes_before
        assert after == before
        assert grown < 16 * 2**20
        assert "Traceback" not in server.log()
    finally:
        server.close()


def settled_count(server: Server) -> Count:
    """When all work has ended, and the model that is let go after each reply is gone."""
    counts: list[Count] = []

    def is_settled() -> bool:
        if any(model["name"] == "again" for model in client.call("ps", {}, timeout_s=60)["models"]):
            return False
        counts.append(take_count(server, client.call("counts", {}, timeout_s=60)))
        idle = not any(n for name, n in counts[-1].work.items() if name != "tasks")
        return idle and len(counts) > 3 and len({str(count) for count in counts[-4:]}) == 1

    # One connection for all questions: each has a descriptor in the front, which closes it a moment later.
    with server.control() as client:
        until(is_settled)
    return counts[-1]
