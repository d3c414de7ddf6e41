"""The pool: one task that owns which models have a worker and who may use it.

Everybody else sends it a request and waits. What a request does is in `pool_state`; here is the task and the
way in. Idle timer, eviction and grant happen in this one task, so that a lease which has just been granted
can never meet a worker on its way out.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from mlxk.config.settings import Settings
from mlxk.store.catalog import ModelRef
from mlxk.supervisor import eviction
from mlxk.supervisor.crew import Crew
from mlxk.supervisor.events import EventBus
from mlxk.supervisor.load_plan import LoadPlan
from mlxk.supervisor.measured import MeasuredPeaks
from mlxk.supervisor.orders import WorkerEvent
from mlxk.supervisor.pool_state import PoolState
from mlxk.supervisor.records import Lease, ModelRecord, RestartResult, StopResult
from mlxk.workers.protocol import Fault

TICK_S = 0.5


class Pool:
    """`run` is the owner task. The public methods post to it and wait for its answer."""

    def __init__(
        self,
        settings: Settings,
        crew: Crew,
        memory_limit_bytes: int,
        events: EventBus | None = None,
        measured: MeasuredPeaks | None = None,
    ) -> None:
        self._inbox: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        events, measured = events or EventBus(), measured or MeasuredPeaks()
        self._state = PoolState(settings, crew, memory_limit_bytes, events, measured, self._tell)

    async def run(self) -> None:
        """Until cancelled. Every turn: take what was posted, then decide once."""
        try:
            await self._run()
        finally:
            self._state.budget.close()

    async def _run(self) -> None:
        tick_at = time.monotonic() + TICK_S
        while True:
            soon = time.monotonic() + eviction.LINGER_S if self._state.waiting else tick_at
            action = await self._next_action(min(tick_at, soon))
            if action is not None:
                action()
                while not self._inbox.empty():
                    self._inbox.get_nowait()()
            if time.monotonic() >= tick_at:  # also when the inbox is never empty for so long
                tick_at = time.monotonic() + TICK_S
                self._state.on_tick()
            self._state.carry_out()
            self._state.announce_states()

    async def _next_action(self, until: float) -> Callable[[], None] | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await self._inbox.get()
        return None

    # -------------------------------------------------------- asked by other tasks

    async def acquire(
        self, ref: ModelRef, keep_alive_s: float | None = None, *, is_brief: bool = False
    ) -> Lease:
        """A lease on the model, loading it if need be. Raises FaultError; cancel to stop waiting.
        `is_brief`: for work that takes no place in the model's batch."""
        return await self._wait_ready(ref, keep_alive_s, holds_lease=True, is_brief=is_brief)

    async def ensure_loaded(self, ref: ModelRef) -> None:
        """Wait until the model is READY. A FAILED one gets a new chance: this is the explicit request."""
        self._inbox.put_nowait(lambda: self._state.on_forgive(ref.name))
        await self._wait_ready(ref, None, holds_lease=False)

    def release(self, lease: Lease) -> None:
        self._inbox.put_nowait(lambda: self._state.on_release(lease))

    def report_stuck(self, lease: Lease, why: str) -> None:
        """A request was aborted and the worker did not let go of it: end the worker."""
        self._inbox.put_nowait(lambda: self._state.on_stuck(lease, why))

    async def stop(self, name: str, *, drain_s: float, grace_s: float) -> StopResult:
        """Returns when the model's process has been reaped, or at once if it has none."""
        done: asyncio.Future[StopResult] = asyncio.get_running_loop().create_future()
        self._inbox.put_nowait(lambda: self._state.on_stop(name, drain_s, grace_s, done))
        return await done

    async def restart(self, ref: ModelRef, *, drain_s: float, grace_s: float) -> RestartResult:
        """A new process for the model, and no request fails for it: where memory allows two, the new one is
        ready before the old one drains; else the old one goes first and requests wait. Returns when the new
        one is ready and the old one reaped. Raises FaultError; then the old one goes on."""
        done: asyncio.Future[RestartResult] = asyncio.get_running_loop().create_future()
        self._inbox.put_nowait(lambda: self._state.on_restart(ref, drain_s, grace_s, done))
        return await done

    def configure(self, settings: Settings, memory_limit_bytes: int) -> None:
        """New settings (a reload): for all decisions from now on. Who runs goes on running."""
        self._inbox.put_nowait(lambda: self._state.on_configure(settings, memory_limit_bytes))

    def close(self, reason: Fault, *, drain_s: float, grace_s: float) -> None:
        """Refuse all waiters and stop all workers in parallel. `Crew.gone` tells when they are."""
        self._inbox.put_nowait(lambda: self._state.on_close(reason, drain_s, grace_s))

    def running_names(self) -> list[str]:
        """Models with a process (for display and `stop --all`)."""
        return [record.name for record in self._state.records.values() if record.worker_ids]

    def records(self) -> list[ModelRecord]:
        """For display only: nothing may be decided on what is read here."""
        return list(self._state.records.values())

    @property
    def memory_limit_bytes(self) -> int:
        """What all models may take together."""
        return self._state.budget.limit_bytes

    async def plan(self, ref: ModelRef) -> LoadPlan:
        """What a load would do now. Changes nothing."""
        answer: asyncio.Future[LoadPlan] = asyncio.get_running_loop().create_future()
        self._inbox.put_nowait(lambda: self._state.on_plan(ref, answer))
        return await answer

    def queued_requests(self, name: str) -> int:
        """For display: a load that `mlxk load`, `preload` or a restart asked for is nobody's request."""
        return self._state.waiting.requests(name)

    def queued(self, name: str) -> int:
        """All who wait for the model, requests and loads."""
        return self._state.waiting.queued(name)

    async def _wait_ready(
        self, ref: ModelRef, keep_alive_s: float | None, *, holds_lease: bool, is_brief: bool = False
    ) -> Lease:
        waiter = self._state.waiting.new(ref.name, holds_lease=holds_lease, is_brief=is_brief)
        self._inbox.put_nowait(lambda: self._state.on_wait(waiter, ref, keep_alive_s))
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            # The grant may have crossed with the cancellation: the pool gives the lease back then.
            self._inbox.put_nowait(lambda: self._state.on_waiter_left(waiter))
            raise

    def describe_spare(self) -> dict[str, Any] | None:
        """For `ps`."""
        return self._state.loader.spare.describe()

    def _tell(self, event: WorkerEvent) -> None:
        """Handed to every worker: its events come in through the same inbox as all else."""
        self._inbox.put_nowait(lambda: self._state.on_worker(event))
