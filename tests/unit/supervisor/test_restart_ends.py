"""A restart of a model always ends, whoever dies meanwhile, and it loads what is configured now."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mlxk.config.settings import ModelSettings
from mlxk.supervisor import pool_state
from mlxk.supervisor.orders import LoadOrder
from mlxk.supervisor.records import RestartResult
from mlxk.supervisor.states import WorkerState
from mlxk.workers.protocol import Fault, FaultCode
from tests.unit.supervisor.aio import in_loop, turns
from tests.unit.supervisor.fakes import FakeWorker, ref
from tests.unit.supervisor.pool_stage import GB, PLAIN, Stage, on_stage, quick, refusal

__all__ = ["quick"]


def restart(stage: Stage, name: str = "a", size: int = 1000) -> asyncio.Task[RestartResult]:
    return asyncio.create_task(stage.pool.restart(ref(name, size), drain_s=60, grace_s=1))


async def end(worker: FakeWorker) -> None:
    worker.end()
    await turns()


@in_loop
async def test_when_the_new_worker_dies_while_the_old_one_drains_the_model_is_loaded_again() -> None:
    async with on_stage() as stage:
        old = await stage.load("a")
        await stage.ask("a")
        restarting = restart(stage)
        new = await stage.until_worker(2)
        new.become_ready()
        await turns()
        new.die()
        await turns()
        third = await asyncio.wait_for(stage.until_worker(3), 5)
        third.become_ready()
        await end(old)
        assert (await asyncio.wait_for(restarting, 5)).name == "a"


@in_loop
async def test_a_successor_that_became_the_load_and_cannot_load_fails_the_restart() -> None:
    async with on_stage() as stage:
        old = await stage.load("a")
        restarting = restart(stage)
        new = await stage.until_worker(2)
        old.die()
        await turns()
        new.tell(WorkerState.WARM)
        new.tell(WorkerState.LOADING)
        new.tell(WorkerState.STOPPING, failure=Fault(FaultCode.MODEL_LOAD_FAILED, "bad weights"))
        await end(new)
        assert "bad weights" in (await asyncio.wait_for(refusal(restarting), 5)).message  # type: ignore[arg-type]


@in_loop
async def test_a_load_that_a_restart_waits_for_is_not_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_state, "ABANDON_GRACE_S", 0.0)
    async with on_stage() as stage:
        old = await stage.load("a")
        restarting = restart(stage)
        new = await stage.until_worker(2)
        old.die()
        asked = stage.ask("a")
        await turns()
        asked.cancel()
        await asyncio.sleep(0.05)  # some ticks
        assert not new.stops
        new.become_ready()
        await asyncio.wait_for(restarting, 5)


@in_loop
async def test_a_stopped_restart_does_not_make_a_later_one_seamless() -> None:
    async with on_stage(limit=3 * GB) as stage:
        size = GB
        old = await stage.load("a", size)
        restarting = restart(stage, size=size)
        new = await stage.until_worker(2)
        stopping = asyncio.create_task(stage.pool.stop("a", drain_s=0, grace_s=1))
        await turns()
        await end(old)
        await end(new)
        await asyncio.gather(stopping, restarting, return_exceptions=True)
        third = await stage.load("a", size)
        stage.pool.configure(PLAIN, 2 * GB)  # no room for two any more
        again = restart(stage, size=size)
        await turns()
        assert third.stops
        await end(third)
        (await stage.until_worker(4)).become_ready()
        assert not (await asyncio.wait_for(again, 5)).seamless


@in_loop
async def test_without_room_for_two_a_restart_still_says_what_was_freed() -> None:
    async with on_stage(limit=2 * GB) as stage:
        old = await stage.load("a", GB)
        restarting = restart(stage, size=GB)
        await turns()
        old.tell(WorkerState.STOPPING, held_bytes=12345)
        await end(old)
        (await stage.until_worker(2)).become_ready()
        assert (await asyncio.wait_for(restarting, 5)).freed_bytes == 12345


def context_lengths(worker: FakeWorker) -> list[int | None]:
    return [order.spec.context_length for order in worker.orders if isinstance(order, LoadOrder)]


@in_loop
@pytest.mark.parametrize("beside", [True, False], ids=["of a successor", "of a load"])
async def test_a_restart_does_not_settle_for_a_load_with_outdated_settings(beside: bool) -> None:
    def with_context(length: int) -> dict[str, ModelSettings]:
        return {"a": ModelSettings("a", context_length=length)}

    async with on_stage(models=with_context(1000)) as stage:
        if beside:
            await stage.load("a")
            first: asyncio.Task[object] = restart(stage)  # type: ignore[assignment]
        else:
            first = stage.ask("a")  # type: ignore[assignment]
        outdated = await stage.until_worker(1 + beside)
        outdated.tell(WorkerState.WARM)
        await turns()
        assert context_lengths(outdated) == [1000]
        stage.pool.configure(replace(PLAIN, models=with_context(2000)), 100 * GB)
        second = restart(stage)
        await turns()
        assert outdated.stops
        await end(outdated)
        new = await asyncio.wait_for(stage.until_worker(2 + beside), 5)
        new.become_ready()
        await turns()
        if beside:
            await end(stage.worker(1))
        await asyncio.wait_for(asyncio.gather(first, second), 5)
        assert context_lengths(new) == [2000]


@in_loop
async def test_a_restart_joins_a_load_that_is_up_to_date() -> None:
    async with on_stage() as stage:
        asked = stage.ask("a")
        loading = await stage.until_worker(1)
        loading.tell(WorkerState.WARM)
        restarting = restart(stage)
        await turns()
        assert not loading.stops
        loading.become_ready()
        await asyncio.gather(asked, restarting)


@in_loop
async def test_a_restart_whose_caller_has_gone_does_not_end_the_pool() -> None:
    async with on_stage() as stage:
        stage.pool.close(Fault(FaultCode.SHUTTING_DOWN, "bye"), drain_s=0, grace_s=1)
        gone = restart(stage)
        await asyncio.sleep(0)  # posted
        gone.cancel()
        await turns()
        assert not stage.task.done()


@in_loop
async def test_a_load_on_a_warm_spare_gets_the_same_share_as_on_a_new_worker() -> None:
    async def share(spare: bool) -> int | None:
        async with on_stage(limit=10 * GB, spare=spare) as stage:
            if spare:
                (await stage.until_worker(1)).tell(WorkerState.WARM)
                await turns()
            asked = stage.ask("a", size=GB)
            worker = await stage.until_worker(1)
            worker.tell(WorkerState.WARM)
            await stage.until(lambda: worker.loads)
            asked.cancel()
            return next(o.spec.memory_bytes for o in worker.orders if isinstance(o, LoadOrder))

    assert await share(True) == await share(False)
    assert (await share(True) or 0) <= 10 * GB


@in_loop
async def test_who_needs_room_does_not_wait_for_a_long_drain_while_idle_models_hold_it() -> None:
    async with on_stage(limit=5 * GB) as stage:
        await stage.load("a", GB)
        await stage.ask("a", size=GB)  # a long one
        restarting = restart(stage, size=GB)
        (await stage.until_worker(2)).become_ready()
        await turns()
        idle = await stage.load("c", GB)
        asked = stage.ask("b", size=GB)
        await asyncio.wait_for(stage.until(lambda: idle.stops), 5)
        asked.cancel()
        restarting.cancel()
