"""The pool's task on a stage: with fake workers, and with short waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest

from mlxk.config.settings import Settings
from mlxk.supervisor import pool as pool_module
from mlxk.supervisor import pool_state
from mlxk.supervisor import spare as spare_module
from mlxk.supervisor.pool import Pool
from mlxk.supervisor.records import Lease
from mlxk.supervisor.states import ModelState
from mlxk.workers.protocol import Fault, FaultError
from tests.unit.supervisor.aio import turns
from tests.unit.supervisor.fakes import FakeCrew, FakeWorker, ref

GB = 1 << 30
MB = 1 << 20
PLAIN = Settings(spare=False, keep_alive_s=-1, cache_bytes=0, max_batch=2)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the modules that import it."""
    monkeypatch.setattr(pool_module, "TICK_S", 0.01)
    monkeypatch.setattr(pool_state, "ABANDON_GRACE_S", 0.03)
    monkeypatch.setattr(spare_module, "CALM_S", 0.02)


class Stage:
    def __init__(self, settings: Settings, limit: int) -> None:
        self.crew = FakeCrew()
        self.pool = Pool(settings, cast(Any, self.crew), limit)
        self.task = asyncio.create_task(self.pool.run())

    def worker(self, number: int) -> FakeWorker:
        return self.crew.workers[f"w{number}"]

    async def until_worker(self, number: int) -> FakeWorker:
        await self.until(lambda: f"w{number}" in self.crew.workers)
        return self.worker(number)

    async def until(self, condition: Any) -> None:
        while not condition():  # noqa: ASYNC110  # the pool has no event for "a decision was carried out"
            await asyncio.sleep(0.001)

    def ask(self, name: str, keep_alive_s: float | None = None, *, size: int = 1000) -> asyncio.Task[Lease]:
        return asyncio.create_task(self.pool.acquire(ref(name, size), keep_alive_s))

    async def load(self, name: str, size: int = 1000) -> FakeWorker:
        """READY and idle, on the next worker."""
        asked = self.ask(name, size=size)
        worker = await self.until_worker(len(self.crew.workers) + 1)
        worker.become_ready()
        self.pool.release(await asked)
        await turns()
        return worker

    def state(self, name: str) -> ModelState:
        return next(record.state for record in self.pool.records() if record.name == name)


@contextlib.asynccontextmanager
async def on_stage(limit: int = 100 * GB, **changes: Any) -> AsyncIterator[Stage]:
    stage = Stage(replace(PLAIN, **changes), limit)
    try:
        yield stage
    finally:
        stage.task.cancel()
        await asyncio.wait([stage.task])
        assert stage.task.cancelled(), stage.task.exception()


async def refusal(asked: asyncio.Task[Any]) -> Fault:
    with pytest.raises(FaultError) as caught:
        await asked
    return caught.value.fault
