"""The spare worker of the pool: made when all is calm, taken by the next load."""

from __future__ import annotations

import asyncio

import pytest

from mlxk.config.settings import ModelSettings
from mlxk.supervisor import restarts
from mlxk.supervisor.states import WorkerState
from mlxk.workers.protocol import Fault, FaultCode
from tests.unit.supervisor.aio import in_loop, turns
from tests.unit.supervisor.pool_stage import on_stage, quick

__all__ = ["quick"]

LONG_S = 1000.0
"""Half a second, which it is, may pass in any line of a test."""


@in_loop
async def test_a_load_takes_the_warm_spare_and_another_is_made() -> None:
    async with on_stage(spare=True) as stage:
        spare = await stage.until_worker(1)
        spare.tell(WorkerState.WARM)
        await turns()
        asked = stage.ask("a")
        await stage.until(lambda: spare.loads == ["a"])
        await asyncio.sleep(0.05)
        assert len(stage.crew.workers) == 1  # not while something loads
        spare.become_ready()
        await asked
        await stage.until_worker(2)


@in_loop
async def test_a_spare_that_is_still_warming_up_is_taken_too() -> None:
    async with on_stage(spare=True) as stage:
        spare = await stage.until_worker(1)
        asked = stage.ask("a")
        await turns()
        assert spare.loads == []
        spare.become_ready()
        await asked
        assert spare.loads == ["a"]


@in_loop
async def test_without_spares_nothing_is_spawned_before_it_is_needed() -> None:
    async with on_stage(spare=False) as stage:
        await asyncio.sleep(0.05)
        assert stage.crew.workers == {}


@in_loop
async def test_a_dying_spare_is_replaced_slower_and_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "FIRST_WAIT_S", LONG_S)
    async with on_stage(spare=True) as stage:
        (await stage.until_worker(1)).die()
        (await stage.until_worker(2)).die()
        await asyncio.sleep(0.1)
        assert len(stage.crew.workers) == 2


@in_loop
async def test_a_spare_that_had_to_be_ended_counts_as_a_death_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It did not say Hello in time, or was of another version: no loop of spawns."""
    monkeypatch.setattr(restarts, "FIRST_WAIT_S", LONG_S)
    async with on_stage(spare=True) as stage:
        for number in (1, 2):
            (await stage.until_worker(number)).end()
        await asyncio.sleep(0.1)
        assert len(stage.crew.workers) == 2


@in_loop
async def test_a_spare_that_ends_with_the_server_is_no_death(caplog: pytest.LogCaptureFixture) -> None:
    async with on_stage(spare=True) as stage:
        spare = await stage.until_worker(1)
        reason = Fault(FaultCode.SHUTTING_DOWN, "The server is shutting down.")
        stage.pool.close(reason, drain_s=0, grace_s=1)
        await turns()
        spare.end()
        await asyncio.sleep(0.05)
        assert len(stage.crew.workers) == 1
    assert "died" not in caplog.text


@in_loop
async def test_no_process_for_a_spare_is_no_harm() -> None:
    async with on_stage(spare=True) as stage:
        await stage.until_worker(1)
        stage.crew.refusal = OSError(11, "Resource temporarily unavailable")
        stage.worker(1).die()
        await asyncio.sleep(0.05)
        assert stage.pool.describe_spare() is None


@in_loop
async def test_a_model_with_an_environment_gets_a_process_of_its_own_and_leaves_the_spare() -> None:
    models = {"a": ModelSettings("a", environment={"X": "1"})}
    async with on_stage(spare=True, models=models) as stage:
        spare = await stage.until_worker(1)
        spare.tell(WorkerState.WARM)
        asked = stage.ask("a")
        own = await stage.until_worker(2)
        own.become_ready()
        await asked
        assert (own.loads, own.environment) == (["a"], {"X": "1"})
        assert (spare.loads, spare.environment) == ([], {})
