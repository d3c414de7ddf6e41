"""`mlxk restart MODEL` in the pool: the new worker is ready before the old one drains, if there is room."""

from __future__ import annotations

import asyncio

import pytest

from mlxk.supervisor.records import RestartResult
from mlxk.supervisor.states import ModelState
from mlxk.workers.protocol import FaultError
from tests.unit.supervisor.aio import in_loop, turns
from tests.unit.supervisor.fakes import ref
from tests.unit.supervisor.pool_stage import GB, MB, Stage, on_stage, quick

__all__ = ["quick"]


def restarting(stage: Stage, name: str) -> asyncio.Task[RestartResult]:
    return asyncio.create_task(stage.pool.restart(ref(name), drain_s=60, grace_s=1))


@in_loop
async def test_a_restart_has_the_new_worker_ready_before_the_old_one_drains() -> None:
    async with on_stage() as stage:
        old = await stage.load("a")
        lease = await stage.ask("a")
        restart = restarting(stage, "a")
        new = await stage.until_worker(2)
        assert (await stage.ask("a")).worker_id == "w1"  # the old one works on meanwhile
        assert old.stops == []
        new.become_ready()
        assert (await stage.ask("a")).worker_id == "w2"
        assert old.stops[0].drain_s == 60
        assert not restart.done()
        stage.pool.release(lease)
        old.end()
        result = await restart
        assert result.seamless
        assert stage.state("a") is ModelState.READY


@in_loop
async def test_without_room_for_two_a_restart_ends_the_old_worker_first_and_requests_wait() -> None:
    async with on_stage(limit=1 * GB) as stage:
        old = await stage.load("a", GB // 2)
        restart = asyncio.create_task(stage.pool.restart(ref("a", GB // 2), drain_s=60, grace_s=1))
        await stage.until(lambda: old.stops)
        asked = stage.ask("a", size=GB // 2)
        await turns()
        assert len(stage.crew.workers) == 1
        old.end()
        (await stage.until_worker(2)).become_ready()
        assert (await asked).worker_id == "w2"
        assert not (await restart).seamless


@in_loop
async def test_a_restart_that_fails_leaves_the_old_worker_at_work() -> None:
    async with on_stage() as stage:
        old = await stage.load("a")
        restart = restarting(stage, "a")
        (await stage.until_worker(2)).die()
        with pytest.raises(FaultError, match="its old process goes on"):
            await restart
        assert (await stage.ask("a")).worker_id == "w1"
        assert old.stops == []


@in_loop
async def test_when_the_old_worker_dies_meanwhile_the_successor_becomes_the_load() -> None:
    async with on_stage() as stage:
        old = await stage.load("a")
        restart = restarting(stage, "a")
        new = await stage.until_worker(2)
        old.die()
        asked = stage.ask("a")
        await turns()
        assert len(stage.crew.workers) == 2
        new.become_ready()
        assert (await asked).worker_id == "w2"
        assert (await restart).name == "a"


@in_loop
async def test_a_stop_during_a_restart_ends_both_workers_and_the_restart() -> None:
    async with on_stage() as stage:
        old = await stage.load("a")
        restart = restarting(stage, "a")
        new = await stage.until_worker(2)
        stopping = asyncio.create_task(stage.pool.stop("a", drain_s=0, grace_s=0))
        with pytest.raises(FaultError):
            await restart
        assert old.stops
        assert new.stops
        old.end()
        await turns()
        assert not stopping.done()
        new.become_ready()  # it crossed with the stop
        new.end()
        assert (await stopping).stopped
        assert stage.state("a") is ModelState.ABSENT


@in_loop
async def test_a_restart_of_what_does_not_run_loads_it() -> None:
    async with on_stage() as stage:
        restart = restarting(stage, "a")
        (await stage.until_worker(1)).become_ready()
        assert not (await restart).seamless


@in_loop
async def test_a_restart_whose_load_is_refused_says_why() -> None:
    async with on_stage(limit=GB) as stage:
        restart = asyncio.create_task(stage.pool.restart(ref("a", 2 * GB), drain_s=1, grace_s=1))
        with pytest.raises(FaultError, match="--max-memory"):
            await restart


@in_loop
async def test_a_worker_that_drains_for_a_restart_counts_as_memory_until_it_is_gone() -> None:
    async with on_stage(limit=1500 * MB) as stage:
        old = await stage.load("a", 400 * MB)
        lease = await stage.ask("a", size=400 * MB)
        restart = asyncio.create_task(stage.pool.restart(ref("a", 400 * MB), drain_s=60, grace_s=1))
        (await stage.until_worker(2)).become_ready()
        await stage.until(lambda: old.stops)
        asked = stage.ask("b", size=400 * MB)
        await turns()
        assert len(stage.crew.workers) == 2
        stage.pool.release(lease)
        old.end()
        await restart
        (await stage.until_worker(3)).become_ready()
        await asked


@in_loop
async def test_a_restarted_model_is_no_victim_while_its_old_process_still_works() -> None:
    async with on_stage(max_models=1) as stage:
        old = await stage.load("a")
        lease = await stage.ask("a")
        restart = restarting(stage, "a")
        new = await stage.until_worker(2)
        new.become_ready()
        await stage.until(lambda: old.stops)
        asked = stage.ask("b")
        await turns()
        assert new.stops == []
        stage.pool.release(lease)
        old.end()
        assert (await restart).seamless
        await stage.until(lambda: new.stops)
        new.end()
        (await stage.until_worker(3)).become_ready()
        await asked
