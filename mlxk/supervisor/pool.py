"""The pool: one task that owns which models have a worker and who may use it.

Everybody else sends it a request and waits. It carries out what the policies decide (`admission`,
`eviction`, `restarts`); idle timer, eviction and grant happen in this one task, so that a lease which
has just been granted can never meet a worker on its way out.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

from mlxk.config.settings import ModelSettings, Settings
from mlxk.store.catalog import ModelRef
from mlxk.supervisor import admission, costs, eviction
from mlxk.supervisor.crew import Crew
from mlxk.supervisor.failures import forgive, note_death, settle_failure
from mlxk.supervisor.memory import process_bytes
from mlxk.supervisor.orders import LoadOrder, StopOrder, WorkerEvent
from mlxk.supervisor.records import Lease, ModelRecord, StopResult, Waiter
from mlxk.supervisor.spare import Spare
from mlxk.supervisor.states import ModelState, WorkerState
from mlxk.supervisor.views import PoolView, WaiterView
from mlxk.workers.protocol import Fault, FaultCode, FaultError, Load

log = logging.getLogger("mlxk.pool")

TICK_S = 0.5
ABANDON_GRACE_S = 1.0
"""A load whose last waiter has left goes on for so long: the client may be retrying."""


class Pool:
    """`run` is the owner task. The public methods post to it and wait for its answer."""

    def __init__(self, settings: Settings, crew: Crew, memory_limit_bytes: int) -> None:
        self._settings = settings
        self._crew = crew
        self.memory_limit_bytes = memory_limit_bytes
        self._cache_bytes = costs.cache_budget_bytes(settings.cache_bytes, memory_limit_bytes)
        self._inbox: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._records: dict[str, ModelRecord] = {}
        self._model_of: dict[str, str] = {}
        """Worker id -> model name, for the workers that have one."""
        self._waiters: dict[int, Waiter] = {}
        self._waiter_ids = itertools.count(1)
        self._spare = Spare(lambda: crew.hire(self._tell), wanted=settings.spare)
        self._closing: Fault | None = None

    async def run(self) -> None:
        """Until cancelled. Every turn: take what was posted, then decide once."""
        tick_at = time.monotonic() + TICK_S
        while True:
            action = await self._next_action(tick_at)
            if action is not None:
                action()
                while not self._inbox.empty():
                    self._inbox.get_nowait()()
            if time.monotonic() >= tick_at:  # also when the inbox is never empty for so long
                tick_at = time.monotonic() + TICK_S
                self._on_tick()
            self._carry_out()

    async def _next_action(self, until: float) -> Callable[[], None] | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await self._inbox.get()
        return None

    # -------------------------------------------------------- asked by other tasks

    async def acquire(self, ref: ModelRef, keep_alive_s: float | None = None) -> Lease:
        """A lease on the model, loading it if need be. Raises FaultError; cancel to stop waiting."""
        return await self._wait_ready(ref, keep_alive_s, holds_lease=True)

    async def ensure_loaded(self, ref: ModelRef) -> None:
        """Wait until the model is READY. A FAILED one gets a new chance: this is the explicit request."""
        self._inbox.put_nowait(lambda: self._on_forgive(ref.name))
        await self._wait_ready(ref, None, holds_lease=False)

    def release(self, lease: Lease) -> None:
        self._inbox.put_nowait(lambda: self._on_release(lease))

    def report_stuck(self, lease: Lease, why: str) -> None:
        """A request was aborted and the worker did not let go of it: end the worker."""
        self._inbox.put_nowait(lambda: self._on_stuck(lease, why))

    async def stop(self, name: str, *, drain_s: float, grace_s: float) -> StopResult:
        """Returns when the model's process has been reaped, or at once if it has none."""
        done: asyncio.Future[StopResult] = asyncio.get_running_loop().create_future()
        self._inbox.put_nowait(lambda: self._on_stop(name, drain_s, grace_s, done))
        return await done

    def close(self, reason: Fault, *, drain_s: float, grace_s: float) -> None:
        """Refuse all waiters and stop all workers in parallel. `Crew.gone` tells when they are."""
        self._inbox.put_nowait(lambda: self._on_close(reason, drain_s, grace_s))

    def running_names(self) -> list[str]:
        """Models with a process (for display and `stop --all`)."""
        return [record.name for record in self._records.values() if record.worker_id is not None]

    def records(self) -> list[ModelRecord]:
        """For display only: nothing may be decided on what is read here."""
        return list(self._records.values())

    def is_loading(self, name: str) -> bool:
        record = self._records.get(name)
        return record is not None and record.state is ModelState.LOADING

    def queued(self, name: str) -> int:
        return sum(1 for waiter in self._waiters.values() if waiter.model == name)

    async def _wait_ready(self, ref: ModelRef, keep_alive_s: float | None, *, holds_lease: bool) -> Lease:
        granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        waiter = Waiter(next(self._waiter_ids), ref.name, granted, holds_lease)
        self._inbox.put_nowait(lambda: self._on_wait(waiter, ref, keep_alive_s))
        try:
            return await granted
        except asyncio.CancelledError:
            # The grant may have crossed with the cancellation: the pool gives the lease back then.
            self._inbox.put_nowait(lambda: self._on_waiter_left(waiter))
            raise

    # ------------------------------------------------------------- in the pool's task

    def _on_wait(self, waiter: Waiter, ref: ModelRef, keep_alive_s: float | None) -> None:
        if waiter.granted.done():
            return
        if self._closing is not None:
            waiter.granted.set_exception(FaultError(self._closing))
            return
        record = self._record(ref)
        record.keep_alive_s = record.default_keep_alive_s if keep_alive_s is None else keep_alive_s
        record.unwanted_since = None
        self._waiters[waiter.id] = waiter

    def _on_waiter_left(self, waiter: Waiter) -> None:
        if self._waiters.pop(waiter.id, None) is None and waiter.granted.done():
            if waiter.holds_lease and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self._on_release(waiter.granted.result())
            return
        record = self._records.get(waiter.model)
        if record and record.state is ModelState.LOADING and not self.queued(waiter.model):
            record.unwanted_since = time.monotonic()

    def _on_release(self, lease: Lease) -> None:
        record = self._records.get(lease.model)
        if record is None or record.worker_id != lease.worker_id:
            return  # the worker it was on is gone, and its count with it
        record.in_flight -= 1
        record.last_used = time.monotonic()

    def _on_stuck(self, lease: Lease, why: str) -> None:
        worker = self._crew.workers.get(lease.worker_id)
        if worker is None:
            return
        log.error("%s (%s) is stuck: %s", lease.worker_id, lease.model, why)
        text = f"The model's process was stuck ({why}) and has been ended. Try again."
        record = self._records.get(lease.model)
        if record is not None and record.worker_id == lease.worker_id:
            record.state = ModelState.STOPPING  # from this moment on nobody gets a lease on it
        worker.post(StopOrder(Fault(FaultCode.WORKER_DIED, text, True), 0, 0, kill=True))

    def _on_stop(
        self, name: str, drain_s: float, grace_s: float, done: asyncio.Future[StopResult] | None
    ) -> None:
        reason = Fault(FaultCode.MODEL_STOPPED, f"The model {name!r} was stopped.", retryable=True)
        self._refuse_all(name, reason)
        record = self._records.get(name)
        worker = self._crew.workers.get(record.worker_id) if record and record.worker_id else None
        if record is None or worker is None:
            if done is not None and not done.done():
                done.set_result(StopResult(name, stopped=False))
            return
        if done is not None:
            record.stop_waiters.append(done)
        if record.state is not ModelState.STOPPING:
            record.memory_before_stop = process_bytes(worker.vitals.pid)
            record.state = ModelState.STOPPING
        worker.post(StopOrder(reason, drain_s, grace_s))

    def _on_close(self, reason: Fault, drain_s: float, grace_s: float) -> None:
        self._closing = reason
        for waiter in list(self._waiters.values()):
            self._refuse(waiter, reason)
        for record in self._records.values():
            if record.worker_id is not None:
                record.state = ModelState.STOPPING
        self._crew.stop_all(StopOrder(reason, drain_s, grace_s))

    def _on_forgive(self, name: str) -> None:
        if (record := self._records.get(name)) is not None:
            forgive(record)

    # ---------------------------------------------------------------- worker events

    def _tell(self, event: WorkerEvent) -> None:
        """Handed to every worker: its events come in through the same inbox as all else."""
        self._inbox.put_nowait(lambda: self._on_worker(event))

    def _on_worker(self, event: WorkerEvent) -> None:
        name = self._model_of.get(event.worker_id)
        record = self._records.get(name) if name else None
        match event.state:
            case WorkerState.WARM:
                self._on_warm(event.worker_id, record)
            case WorkerState.READY if record is not None and event.loaded is not None:
                record.loaded = event.loaded
                record.loads += 1
                record.ready_at = record.last_used = time.monotonic()
                if record.state is ModelState.LOADING:
                    record.state = ModelState.READY
                    record.last_error = None
                self._spare.postpone()
                log.info("%s is ready on %s (%.2f s)", record.name, event.worker_id, event.loaded.load_s)
            case WorkerState.STOPPING if record is not None:
                self._on_worker_stopping(record, event)
            case WorkerState.EXITED:
                self._on_exited(event, record)

    def _on_warm(self, worker_id: str, record: ModelRecord | None) -> None:
        if self._spare.is_worker(worker_id):
            self._spare.on_warm()
        elif record is not None and record.state is ModelState.LOADING:
            self._order_load(record, worker_id)

    def _on_worker_stopping(self, record: ModelRecord, event: WorkerEvent) -> None:
        was_loading = record.state is ModelState.LOADING
        record.state = ModelState.STOPPING
        if event.failure is not None:
            record.failure = event.failure.message
            if was_loading:
                self._refuse_all(record.name, event.failure)

    def _on_exited(self, event: WorkerEvent, record: ModelRecord | None) -> None:
        report = event.exit
        assert report is not None
        if self._spare.is_worker(event.worker_id):
            self._spare.on_exited(report)
        self._model_of.pop(event.worker_id, None)
        if record is None or record.worker_id != event.worker_id:
            return
        if not report.wanted and (refusal := note_death(record, report)) is not None:
            self._refuse_all(record.name, refusal)
        record.worker_id, record.loaded, record.in_flight, record.unwanted_since = None, None, 0, None
        record.state = ModelState.ABSENT
        if record.failure is not None:
            settle_failure(record, time.monotonic())
        self._settle_stop(record)
        self._spare.postpone()

    def _settle_stop(self, record: ModelRecord) -> None:
        result = StopResult(record.name, True, record.memory_before_stop)
        record.memory_before_stop = 0
        for done in record.stop_waiters:
            if not done.done():
                done.set_result(result)
        record.stop_waiters.clear()

    # -------------------------------------------------------------------- decisions

    def _carry_out(self) -> None:
        if self._closing is not None:
            return
        if self._waiters:
            for decision in admission.decide(self._view()):
                match decision:
                    case admission.Grant(waiter_id):
                        self._grant(self._waiters.pop(waiter_id))
                    case admission.StartLoad(name):
                        self._start_load(self._records[name])
                    case admission.StopIdle(name):
                        self._evict(name, "to make room")
                    case admission.Refuse(waiter_id, reason):
                        self._refuse(self._waiters[waiter_id], reason)
        self._refill_spare()

    def _view(self) -> PoolView:
        return PoolView(
            now=time.monotonic(),
            memory_limit_bytes=self.memory_limit_bytes,
            max_models=self._settings.max_models,
            max_in_flight=self._settings.max_batch,
            models=tuple(record.view(self.queued(record.name)) for record in self._records.values()),
            waiters=tuple(WaiterView(w.id, w.model, w.holds_lease) for w in self._waiters.values()),
            queue_per_model=self._settings.queue_per_model,
            queue_total=self._settings.queue_total,
        )

    def _grant(self, waiter: Waiter) -> None:
        record = self._records[waiter.model]
        assert record.worker_id is not None
        if waiter.granted.done():
            return  # it has left; its cancellation is on the way to us
        if waiter.holds_lease:
            record.in_flight += 1
        record.last_used = time.monotonic()
        # Its task runs before any later order of ours: a drain finds its request at the worker already.
        waiter.granted.set_result(Lease(record.name, record.worker_id))

    def _refuse(self, waiter: Waiter, reason: Fault) -> None:
        self._waiters.pop(waiter.id, None)
        if not waiter.granted.done():
            waiter.granted.set_exception(FaultError(reason))

    def _refuse_all(self, name: str, reason: Fault) -> None:
        for waiter in [w for w in self._waiters.values() if w.model == name]:
            self._refuse(waiter, reason)

    def _evict(self, name: str, why: str) -> None:
        log.info("evicting %s %s", name, why)
        self._on_stop(name, 0, self._settings.stop_grace_s, None)

    def _start_load(self, record: ModelRecord) -> None:
        """From the spare if there is one (also one that is still warming up), else from a new process."""
        try:
            worker, warm = self._spare.take() or (self._crew.hire(self._tell), False)
        except OSError as error:
            reason = Fault(FaultCode.MODEL_LOAD_FAILED, f"No process could be started: {error}", True)
            self._refuse_all(record.name, reason)
            return
        record.state = ModelState.LOADING
        record.worker_id = worker.id
        self._model_of[worker.id] = record.name
        if warm:
            self._order_load(record, worker.id)

    def _order_load(self, record: ModelRecord, worker_id: str) -> None:
        own = self._model_settings(record.name)
        others = sum(r.cost_bytes for r in self._records.values() if r.worker_id and r is not record)
        spec = Load(
            name=record.name,
            path=str(record.ref.path),
            cache_bytes=self._cache_bytes,
            memory_bytes=max(record.cost_bytes, self.memory_limit_bytes - others),
            context_length=own.context_length if own else None,
            trust_remote_code=own.trust_remote_code if own else False,
            options={"max_batch": self._settings.max_batch, **(own.options if own else {})},
        )
        worker = self._crew.workers.get(worker_id)
        if worker is not None:
            worker.post(LoadOrder(spec))

    def _model_settings(self, name: str) -> ModelSettings | None:
        return self._settings.models.get(name)

    def _record(self, ref: ModelRef) -> ModelRecord:
        record = self._records.get(ref.name)
        if record is None:
            own = self._model_settings(ref.name)
            keep_alive_s = self._settings.keep_alive_s
            if own is not None and own.keep_alive_s is not None:
                keep_alive_s = own.keep_alive_s
            cost = costs.model_cost_bytes(ref.size_bytes, self._cache_bytes)
            record = ModelRecord(ref, cost, bool(own and own.pinned), keep_alive_s, keep_alive_s)
            self._records[ref.name] = record
        elif record.worker_id is None and record.ref != ref:
            record.ref = ref  # pulled again, or the alias points elsewhere now
            record.cost_bytes = costs.model_cost_bytes(ref.size_bytes, self._cache_bytes)
        return record

    # ------------------------------------------------------------------------- time

    def _on_tick(self) -> None:
        now = time.monotonic()
        for record in self._records.values():
            if record.state is ModelState.BACKOFF and now >= record.retry_at:
                record.state = ModelState.ABSENT
            abandoned = record.unwanted_since is not None and now - record.unwanted_since >= ABANDON_GRACE_S
            if abandoned and record.state is ModelState.LOADING and not self.queued(record.name):
                self._evict(record.name, "before it was loaded: nobody waits for it any more")
        for name in eviction.expired(self._view()):
            self._evict(name, "after its keep-alive")

    def _refill_spare(self) -> None:
        if not any(record.state is ModelState.LOADING for record in self._records.values()):
            self._spare.refill(time.monotonic())

    def describe_spare(self) -> dict[str, Any] | None:
        """For `ps`."""
        return self._spare.describe()
