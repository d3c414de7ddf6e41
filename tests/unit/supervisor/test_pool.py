"""The pool's task with fake workers: who gets a lease, what is loaded and stopped, who is told what."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mlxk.config.settings import ModelSettings
from mlxk.supervisor import pool_state, restarts
from mlxk.supervisor.records import Lease
from mlxk.supervisor.states import ModelState, WorkerState
from mlxk.workers.protocol import Fault, FaultCode
from tests.unit.supervisor.aio import in_loop, turns
from tests.unit.supervisor.fakes import ref
from tests.unit.supervisor.pool_stage import GB, MB, PLAIN, on_stage, quick, refusal

__all__ = ["quick"]


@in_loop
async def test_many_requests_for_a_cold_model_make_one_worker_and_one_load() -> None:
    async with on_stage(max_batch=8) as stage:
        asked = [stage.ask("a") for _ in range(8)]
        worker = await stage.until_worker(1)
        worker.become_ready()
        assert {lease.worker_id for lease in await asyncio.gather(*asked)} == {"w1"}
        assert worker.loads == ["a"]


@in_loop
async def test_the_next_waiter_goes_on_when_a_lease_comes_back() -> None:
    async with on_stage(max_batch=1) as stage:
        first, second = stage.ask("a"), stage.ask("a")
        (await stage.until_worker(1)).become_ready()
        lease = await first
        await turns()
        assert not second.done()
        stage.pool.release(lease)
        await second


@in_loop
async def test_a_cancelled_waiter_takes_no_lease() -> None:
    async with on_stage(max_batch=1) as stage:
        await stage.load("a")
        first, second, third = stage.ask("a"), stage.ask("a"), stage.ask("a")
        lease = await first
        second.cancel()
        await asyncio.wait([second])
        stage.pool.release(lease)
        await third


@in_loop
async def test_a_lease_that_crosses_with_the_cancellation_comes_back() -> None:
    async with on_stage(max_batch=1) as stage:
        await stage.load("a")
        for cancel_after in range(8):  # turns of the loop: before, while and after the grant
            crossed = stage.ask("a")
            await turns(cancel_after)
            if crossed.done():
                stage.pool.release(crossed.result())
            crossed.cancel()
            await asyncio.wait([crossed])
            if not crossed.cancelled():
                continue
            stage.pool.release(await stage.ask("a"))


@in_loop
async def test_explicit_load_takes_no_lease() -> None:
    async with on_stage(max_batch=1) as stage:
        await stage.load("a")
        lease = await stage.ask("a")
        await stage.pool.ensure_loaded(ref("a"))
        stage.pool.release(lease)
        await stage.ask("a")


@in_loop
async def test_an_idle_model_makes_room_and_its_room_is_used_only_after_its_exit() -> None:
    async with on_stage(max_models=1) as stage:
        old = await stage.load("old")
        asked = stage.ask("new")
        await stage.until(lambda: old.stops)
        await turns()
        assert len(stage.crew.workers) == 1
        old.end()
        (await stage.until_worker(2)).become_ready()
        assert (await asked).worker_id == "w2"


@in_loop
async def test_a_busy_model_makes_the_request_wait() -> None:
    async with on_stage(max_models=1) as stage:
        old = await stage.load("old")
        lease = await stage.ask("old")
        asked = stage.ask("new")
        await asyncio.sleep(0.03)
        assert old.stops == []
        stage.pool.release(lease)
        await stage.until(lambda: old.stops)
        old.end()
        (await stage.until_worker(2)).become_ready()
        await asked


@in_loop
async def test_a_model_that_never_fits_is_refused_and_evicts_nobody() -> None:
    async with on_stage(limit=GB) as stage:
        worker = await stage.load("small")
        fault = await refusal(asyncio.create_task(stage.pool.acquire(ref("big", 2 * GB))))
        assert fault.code is FaultCode.INSUFFICIENT_MEMORY
        assert worker.stops == []


@in_loop
async def test_the_queue_counts_only_those_who_cannot_go_on_at_once() -> None:
    async with on_stage(max_batch=4, queue_per_model=1) as stage:
        await stage.load("a")
        asked = [stage.ask("a") for _ in range(6)]
        await stage.until(lambda: sum(task.done() for task in asked) == 5)
        assert [task.done() for task in asked] == [True] * 4 + [False, True]
        assert (await refusal(asked[5])).code is FaultCode.QUEUE_FULL
        asked[4].cancel()


@in_loop
async def test_ticks_come_also_when_the_inbox_is_never_quiet() -> None:
    async with on_stage(keep_alive_s=0.05) as stage:
        idle = await stage.load("idle")

        async def busy() -> None:
            while not idle.stops:
                stage.pool.release(Lease("nobody", "w0"))
                await asyncio.sleep(0)

        await busy()


@in_loop
async def test_keep_alive_zero_lets_go_after_the_reply() -> None:
    async with on_stage() as stage:
        worker = await stage.load("a")
        lease = await stage.ask("a", keep_alive_s=0)
        await asyncio.sleep(0.03)
        assert worker.stops == []
        stage.pool.release(lease)
        await stage.until(lambda: worker.stops)


@in_loop
async def test_a_pinned_model_outlives_its_keep_alive() -> None:
    pinned = {"a": ModelSettings("a", pinned=True)}
    async with on_stage(keep_alive_s=0, models=pinned) as stage:
        worker = await stage.load("a")
        await asyncio.sleep(0.05)
        assert worker.stops == []


@in_loop
async def test_a_load_that_nobody_waits_for_any_more_is_abandoned_after_a_grace() -> None:
    async with on_stage() as stage:
        asked = stage.ask("a")
        worker = await stage.until_worker(1)
        worker.tell(WorkerState.WARM)
        asked.cancel()
        await stage.until(lambda: worker.stops)


@in_loop
async def test_a_load_is_not_abandoned_while_another_waits() -> None:
    async with on_stage() as stage:
        asked, other = stage.ask("a"), stage.ask("a")
        worker = await stage.until_worker(1)
        asked.cancel()
        await asyncio.sleep(0.08)
        assert worker.stops == []
        worker.become_ready()
        await other


@in_loop
async def test_who_comes_back_within_the_grace_finds_the_load_going_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_state, "ABANDON_GRACE_S", 1000.0)  # not over before it has come back
    async with on_stage() as stage:
        asked = stage.ask("a")
        worker = await stage.until_worker(1)
        asked.cancel()
        await turns()
        again = stage.ask("a")
        await turns()
        monkeypatch.setattr(pool_state, "ABANDON_GRACE_S", 0.0)
        await asyncio.sleep(0.08)  # some ticks
        assert worker.stops == []
        worker.become_ready()
        await again


@in_loop
async def test_a_stop_returns_only_after_the_exit() -> None:
    async with on_stage() as stage:
        worker = await stage.load("a")
        stopping = asyncio.create_task(stage.pool.stop("a", drain_s=1, grace_s=1))
        await stage.until(lambda: worker.stops)
        worker.tell(WorkerState.STOPPING)
        await turns()
        assert not stopping.done()
        worker.end()
        assert (await stopping).stopped


@in_loop
async def test_stopping_what_does_not_run_is_done_at_once() -> None:
    async with on_stage() as stage:
        assert not (await stage.pool.stop("never", drain_s=0, grace_s=0)).stopped


@in_loop
async def test_two_stops_of_one_model_both_return() -> None:
    async with on_stage() as stage:
        worker = await stage.load("a")
        stops = [asyncio.create_task(stage.pool.stop("a", drain_s=0, grace_s=0)) for _ in range(2)]
        await stage.until(lambda: len(worker.stops) == 2)
        worker.end()
        assert all(result.stopped for result in await asyncio.gather(*stops))


@in_loop
async def test_a_stop_refuses_those_who_wait_for_the_load() -> None:
    async with on_stage() as stage:
        asked = stage.ask("a")
        worker = await stage.until_worker(1)
        stopping = asyncio.create_task(stage.pool.stop("a", drain_s=0, grace_s=0))
        assert (await refusal(asked)).code is FaultCode.MODEL_STOPPED
        worker.tell(WorkerState.WARM)  # it crossed with the stop
        await turns()
        assert worker.loads == []
        worker.end()
        await stopping


@in_loop
async def test_a_request_during_a_stop_waits_and_gets_a_new_worker() -> None:
    async with on_stage() as stage:
        old = await stage.load("a")
        stopping = asyncio.create_task(stage.pool.stop("a", drain_s=0, grace_s=0))
        await stage.until(lambda: old.stops)
        asked = stage.ask("a")
        await turns()
        assert len(stage.crew.workers) == 1
        old.end()
        await stopping
        (await stage.until_worker(2)).become_ready()
        assert (await asked).worker_id == "w2"


@in_loop
async def test_a_lease_of_a_dead_worker_does_not_count_against_its_successor() -> None:
    async with on_stage(max_batch=1) as stage:
        worker = await stage.load("a")
        stale = await stage.ask("a")
        worker.die()
        asked = stage.ask("a")
        (await stage.until_worker(2)).become_ready()
        lease = await asked
        stage.pool.release(stale)
        waiting = stage.ask("a")
        await asyncio.sleep(0.02)
        assert not waiting.done()
        stage.pool.release(lease)
        await waiting


@in_loop
async def test_a_death_while_loading_refuses_the_waiters_with_the_log() -> None:
    async with on_stage() as stage:
        asked = [stage.ask("a"), stage.ask("a")]
        (await stage.until_worker(1)).die()
        for task in asked:
            fault = await refusal(task)
            assert fault.code is FaultCode.MODEL_LOAD_FAILED
            assert "last line" in fault.message


@in_loop
async def test_five_deaths_fail_the_model_and_an_explicit_load_forgives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restarts, "FIRST_WAIT_S", 0.001)
    async with on_stage() as stage:
        for number in range(1, 6):
            asked = stage.ask("a")
            (await stage.until_worker(number)).die()
            assert (await refusal(asked)).code is FaultCode.MODEL_LOAD_FAILED
        assert (await refusal(stage.ask("a"))).code is FaultCode.MODEL_FAILED
        assert len(stage.crew.workers) == 5
        explicit = asyncio.create_task(stage.pool.ensure_loaded(ref("a")))
        (await stage.until_worker(6)).become_ready()
        await explicit
        assert stage.state("a") is ModelState.READY


@in_loop
async def test_an_explicit_load_is_nobodys_request() -> None:
    async with on_stage() as stage:
        explicit = asyncio.create_task(stage.pool.ensure_loaded(ref("a")))
        worker = await stage.until_worker(1)
        assert (stage.pool.queued("a"), stage.pool.queued_requests("a")) == (1, 0)
        asked = stage.ask("a")
        await stage.until(lambda: stage.pool.queued("a") == 2)
        assert stage.pool.queued_requests("a") == 1
        worker.become_ready()
        await asked
        await explicit


@in_loop
async def test_a_stuck_worker_is_ordered_to_be_killed() -> None:
    async with on_stage() as stage:
        worker = await stage.load("a")
        stage.pool.report_stuck(await stage.ask("a"), "it hangs")
        await stage.until(lambda: worker.stops)
        assert worker.stops[0].kill


@in_loop
async def test_no_process_to_be_had_is_told_to_the_waiters() -> None:
    async with on_stage() as stage:
        stage.crew.refusal = OSError(11, "Resource temporarily unavailable")
        fault = await refusal(stage.ask("a"))
        assert fault.code is FaultCode.MODEL_LOAD_FAILED
        assert "temporarily" in fault.message
        stage.crew.refusal = None
        await stage.load("a")


@in_loop
async def test_closing_refuses_the_waiters_and_stops_all_workers() -> None:
    reason = Fault(FaultCode.SHUTTING_DOWN, "closing")
    async with on_stage(max_models=1) as stage:
        worker = await stage.load("a")
        lease = await stage.ask("a")
        waiting = stage.ask("b")
        await turns()
        stage.pool.close(reason, drain_s=0, grace_s=1)
        assert await refusal(waiting) == reason
        assert await refusal(stage.ask("a")) == reason
        stage.pool.release(lease)
        worker.end()
        await asyncio.sleep(0.03)
        assert len(stage.crew.workers) == 1


@in_loop
async def test_new_settings_touch_what_is_kept_and_nothing_that_runs() -> None:
    async with on_stage() as stage:
        worker = await stage.load("a")
        pinned = {"a": ModelSettings("a", pinned=True)}
        stage.pool.configure(replace(PLAIN, keep_alive_s=0.01, models=pinned), 50 * GB)
        await stage.until(lambda: stage.pool.memory_limit_bytes == 50 * GB)
        await asyncio.sleep(0.05)
        assert worker.stops == []
        stage.pool.configure(replace(PLAIN, keep_alive_s=0.01), 50 * GB)
        await stage.until(lambda: worker.stops)


@in_loop
async def test_a_model_has_its_own_batch_and_cache() -> None:
    models = {"a": ModelSettings("a", max_batch=1, cache_bytes=5 * MB)}
    async with on_stage(max_batch=8, cache_bytes=7 * MB, models=models) as stage:
        first, second = stage.ask("a"), stage.ask("a")
        worker = await stage.until_worker(1)
        worker.become_ready()
        await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        await turns()
        assert sum(task.done() for task in (first, second)) == 1
        assert worker.specs[0].options["max_batch"] == 1
        assert worker.specs[0].cache_bytes == 5 * MB
        done, other = (first, second) if first.done() else (second, first)
        stage.pool.release(done.result())
        await other
        plain = await stage.load("b")
        assert (plain.specs[0].options["max_batch"], plain.specs[0].cache_bytes) == (8, 7 * MB)
