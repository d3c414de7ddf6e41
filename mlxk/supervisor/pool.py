"""The pool: one task that owns which models have a worker and who may use it.

Everybody else sends it a request and waits. It carries out what the policies decide (`admission`,
`eviction`, `restarts`); idle timer, eviction and grant happen in this one task, so that a lease which
has just been granted can never meet a worker on its way out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mlxk.config.settings import Settings
from mlxk.store.catalog import ModelRef
from mlxk.supervisor import admission, eviction
from mlxk.supervisor.crew import Crew
from mlxk.supervisor.events import EventBus, EventKind
from mlxk.supervisor.exits import describe_exit
from mlxk.supervisor.failures import forgive, note_death, settle_failure
from mlxk.supervisor.loader import Loader
from mlxk.supervisor.orders import StopOrder, WorkerEvent
from mlxk.supervisor.records import Lease, ModelRecord, RestartResult, StopResult, Waiter
from mlxk.supervisor.states import ExitReport, ModelState, WorkerState
from mlxk.supervisor.succession import (
    Succession,
    give_up,
    pass_refusal,
    promote,
    refuse_restart,
    settle,
)
from mlxk.supervisor.views import PoolView
from mlxk.supervisor.waiting import WaitingRoom
from mlxk.workers.protocol import Fault, FaultCode, FaultError, Loaded

log = logging.getLogger("mlxk.pool")

TICK_S = 0.5
ABANDON_GRACE_S = 1.0
"""A load whose last waiter has left goes on for so long: the client may be retrying."""


class Pool:
    """`run` is the owner task. The public methods post to it and wait for its answer."""

    def __init__(
        self, settings: Settings, crew: Crew, memory_limit_bytes: int, events: EventBus | None = None
    ) -> None:
        self._settings = settings
        self._crew = crew
        self._events = events or EventBus()
        self.memory_limit_bytes = memory_limit_bytes
        self._inbox: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._records: dict[str, ModelRecord] = {}
        self._waiting = WaitingRoom()
        self._loader = Loader(settings, crew, self._tell, self._records, memory_limit_bytes)
        self._spare = self._loader.spare
        self._succession = Succession(self._loader, self._events)
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
            self._announce_states()

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

    async def restart(self, ref: ModelRef, *, drain_s: float, grace_s: float) -> RestartResult:
        """A new process for the model, and no request fails for it: where memory allows two, the new one is
        ready before the old one drains; else the old one goes first and requests wait. Returns when the new
        one is ready and the old one reaped. Raises FaultError; then the old one goes on."""
        done: asyncio.Future[RestartResult] = asyncio.get_running_loop().create_future()
        self._inbox.put_nowait(lambda: self._on_restart(ref, drain_s, grace_s, done))
        return await done

    def configure(self, settings: Settings, memory_limit_bytes: int) -> None:
        """New settings (a reload): for all decisions from now on. Who runs goes on running."""
        self._inbox.put_nowait(lambda: self._on_configure(settings, memory_limit_bytes))

    def close(self, reason: Fault, *, drain_s: float, grace_s: float) -> None:
        """Refuse all waiters and stop all workers in parallel. `Crew.gone` tells when they are."""
        self._inbox.put_nowait(lambda: self._on_close(reason, drain_s, grace_s))

    def running_names(self) -> list[str]:
        """Models with a process (for display and `stop --all`)."""
        return [record.name for record in self._records.values() if record.worker_ids]

    def records(self) -> list[ModelRecord]:
        """For display only: nothing may be decided on what is read here."""
        return list(self._records.values())

    def is_loading(self, name: str) -> bool:
        record = self._records.get(name)
        return record is not None and record.state is ModelState.LOADING

    def queued(self, name: str) -> int:
        return self._waiting.queued(name)

    async def _wait_ready(self, ref: ModelRef, keep_alive_s: float | None, *, holds_lease: bool) -> Lease:
        waiter = self._waiting.new(ref.name, holds_lease=holds_lease)
        self._inbox.put_nowait(lambda: self._on_wait(waiter, ref, keep_alive_s))
        try:
            return await waiter.granted
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
        self._waiting.enter(waiter)

    def _on_waiter_left(self, waiter: Waiter) -> None:
        if self._waiting.leave(waiter.id) is None and waiter.granted.done():
            if waiter.holds_lease and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self._on_release(waiter.granted.result())
            return
        record = self._records.get(waiter.model)
        if record and record.state is ModelState.LOADING and not self.queued(waiter.model):
            record.unwanted_since = time.monotonic()

    def _on_release(self, lease: Lease) -> None:
        record = self._records.get(lease.model)
        if record is None:
            return
        if record.worker_id == lease.worker_id:
            record.in_flight -= 1
            record.last_used = time.monotonic()
        elif lease.worker_id in record.leaving:
            record.leaving[lease.worker_id] -= 1
        # else: the worker it was on is gone, and its count with it

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
        self._waiting.refuse_all(reason, name)
        record = self._records.get(name)
        if record is None or not record.worker_ids:
            if done is not None and not done.done():
                done.set_result(StopResult(name, stopped=False))
            return
        if done is not None:
            record.stop_waiters.append(done)
        refuse_restart(record, reason)
        give_up(record)
        self._end_workers(record, StopOrder(reason, drain_s, grace_s))

    def _end_workers(self, record: ModelRecord, order: StopOrder) -> None:
        """All of a model's processes. Those who wait for it go on waiting."""
        if record.worker_id is not None and record.state is not ModelState.STOPPING:
            record.memory_before_stop = sum(self._loader.memory_of(one) for one in record.worker_ids)
            record.state = ModelState.STOPPING
        for worker_id in record.worker_ids:
            self._loader.end(worker_id, order)

    def _on_restart(
        self, ref: ModelRef, drain_s: float, grace_s: float, done: asyncio.Future[RestartResult]
    ) -> None:
        if self._closing is not None:
            done.set_exception(FaultError(self._closing))
            return
        record = self._record(ref)
        forgive(record)
        record.restart_waiters.append(done)
        text = f"The model {ref.name!r} was restarted. Try again."
        order = StopOrder(Fault(FaultCode.MODEL_STOPPED, text, retryable=True), drain_s, grace_s)
        if record.state is ModelState.READY and record.successor_id is None:
            record.ref = ref  # what the new one loads
            if self._has_room_for_two(record):
                self._succession.begin(record, order)
            else:
                log.info("restarting %s: no room for two, so its process ends first", record.name)
                self._end_workers(record, order)
        if record.state is not ModelState.READY:
            # Nobody else may be asking for it: this makes it load, and READY settles the restart.
            waiter = self._waiting.new(ref.name, holds_lease=False)
            waiter.granted.add_done_callback(lambda granted: pass_refusal(granted, done))
            self._waiting.enter(waiter)

    def _has_room_for_two(self, record: ModelRecord) -> bool:
        """Without evicting anybody; and a model counts once, however many processes it has."""
        room = eviction.make_room(replace(self._view(), max_models=0), record.cost_bytes)
        return isinstance(room, eviction.Fits)

    def _on_configure(self, settings: Settings, memory_limit_bytes: int) -> None:
        self._settings, self.memory_limit_bytes = settings, memory_limit_bytes
        self._loader.configure(settings, memory_limit_bytes)
        for record in self._records.values():
            overridden = record.keep_alive_s != record.default_keep_alive_s
            record.pinned, record.default_keep_alive_s = self._loader.keeping(record.name)
            if not overridden:  # else a request has said otherwise, and that stands until the next one
                record.keep_alive_s = record.default_keep_alive_s
            if not record.worker_ids:
                record.cost_bytes = self._loader.cost_bytes(record.ref)

    def _on_close(self, reason: Fault, drain_s: float, grace_s: float) -> None:
        self._closing = reason
        self._waiting.refuse_all(reason)
        for record in self._records.values():
            refuse_restart(record, reason)
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
        name = self._loader.model_of(event.worker_id)
        record = self._records.get(name) if name else None
        match event.state:
            case WorkerState.WARM:
                self._on_warm(event.worker_id, record)
            case WorkerState.READY if record is not None and event.loaded is not None:
                self._on_ready(record, event.worker_id, event.loaded)
            case WorkerState.STOPPING if record is not None:
                self._on_worker_stopping(record, event)
            case WorkerState.EXITED:
                self._on_exited(event, record)

    def _on_warm(self, worker_id: str, record: ModelRecord | None) -> None:
        if self._spare.is_worker(worker_id):
            self._spare.on_warm()
        elif record is not None:
            awaited = record.worker_id if record.state is ModelState.LOADING else record.successor_id
            if worker_id == awaited:
                self._loader.order_load(record, worker_id)

    def _on_ready(self, record: ModelRecord, worker_id: str, loaded: Loaded) -> None:
        log.info("%s is ready on %s (%.2f s)", record.name, worker_id, loaded.load_s)
        self._spare.postpone()
        record.loads += 1
        if worker_id == record.successor_id:
            self._succession.succeed(record)
        elif worker_id == record.worker_id and record.state is ModelState.LOADING:
            record.state = ModelState.READY
        else:
            return  # it was given up meanwhile
        record.loaded, record.last_error = loaded, None
        record.ready_at = record.last_used = time.monotonic()
        facts = {"load_s": loaded.load_s, "memory_bytes": self._loader.memory_of(worker_id)}
        self._events.emit(EventKind.LOADED, model=record.name, worker=worker_id, **facts)
        settle(record)

    def _on_worker_stopping(self, record: ModelRecord, event: WorkerEvent) -> None:
        if event.worker_id == record.successor_id:
            record.successor_failure = event.failure
        if event.worker_id != record.worker_id:
            return
        was_loading = record.state is ModelState.LOADING
        record.state = ModelState.STOPPING
        if event.failure is not None:
            record.failure = event.failure.message
            if was_loading:
                self._waiting.refuse_all(event.failure, record.name)

    def _on_exited(self, event: WorkerEvent, record: ModelRecord | None) -> None:
        report = event.exit
        assert report is not None
        if self._spare.is_worker(event.worker_id):
            self._spare.on_exited(report)
        self._loader.forget(event.worker_id)
        if record is None:
            return
        if event.worker_id == record.successor_id:
            self._succession.on_successor_lost(record, report)
        elif event.worker_id in record.leaving:
            del record.leaving[event.worker_id]
        elif event.worker_id == record.worker_id:
            self._on_current_exited(record, event.worker_id, report)
        settle(record)
        self._spare.postpone()

    def _on_current_exited(self, record: ModelRecord, worker_id: str, report: ExitReport) -> None:
        if not report.wanted and (refusal := note_death(record, report)) is not None:
            self._waiting.refuse_all(refusal, record.name)
            refuse_restart(record, refusal)
        record.worker_id, record.loaded, record.in_flight, record.unwanted_since = None, None, 0, None
        record.state = ModelState.ABSENT
        if record.failure is not None:
            settle_failure(record, time.monotonic())
            facts = {"worker": worker_id, "exit": describe_exit(report), "reason": record.last_error}
            self._events.emit(EventKind.DIED, model=record.name, **facts)
        elif record.memory_before_stop:
            self._events.emit(
                EventKind.STOPPED, model=record.name, worker=worker_id, freed_bytes=record.memory_before_stop
            )
        if record.successor_id is not None:
            promote(record)

    # -------------------------------------------------------------------- decisions

    def _carry_out(self) -> None:
        if self._closing is not None:
            return
        if self._waiting:
            for decision in admission.decide(self._view()):
                match decision:
                    case admission.Grant(waiter_id):
                        self._grant(waiter_id)
                    case admission.StartLoad(name):
                        self._start_load(self._records[name])
                    case admission.StopIdle(name):
                        self._evict(name, "room")
                    case admission.Refuse(waiter_id, reason):
                        self._waiting.refuse(waiter_id, reason)
        self._refill_spare()

    def _view(self) -> PoolView:
        return PoolView(
            now=time.monotonic(),
            memory_limit_bytes=self.memory_limit_bytes,
            max_models=self._settings.max_models,
            max_in_flight=self._settings.max_batch,
            models=tuple(record.view(self.queued(record.name)) for record in self._records.values()),
            waiters=self._waiting.views(),
            queue_per_model=self._settings.queue_per_model,
            queue_total=self._settings.queue_total,
        )

    def _grant(self, waiter_id: int) -> None:
        waiter = self._waiting.leave(waiter_id)
        if waiter is None or waiter.granted.done():
            return  # it has left; its cancellation is on the way to us
        record = self._records[waiter.model]
        assert record.worker_id is not None
        if waiter.holds_lease:
            record.in_flight += 1
        record.last_used = time.monotonic()
        # Its task runs before any later order of ours: a drain finds its request at the worker already.
        waiter.granted.set_result(Lease(record.name, record.worker_id))

    def _evict(self, name: str, reason: str) -> None:
        """`reason`: "room", "keep_alive" or "abandoned"."""
        log.info("evicting %s (%s)", name, reason)
        self._events.emit(EventKind.EVICTED, model=name, reason=reason)
        self._on_stop(name, 0, self._settings.stop_grace_s, None)

    def _start_load(self, record: ModelRecord) -> None:
        try:
            record.worker_id = self._loader.start(record)
        except OSError as error:
            reason = Fault(FaultCode.MODEL_LOAD_FAILED, f"No process could be started: {error}", True)
            self._waiting.refuse_all(reason, record.name)
            refuse_restart(record, reason)
            return
        record.state = ModelState.LOADING

    def _record(self, ref: ModelRef) -> ModelRecord:
        record = self._records.get(ref.name)
        if record is None:
            pinned, keep_alive_s = self._loader.keeping(ref.name)
            cost = self._loader.cost_bytes(ref)
            record = ModelRecord(ref, cost, pinned, keep_alive_s, keep_alive_s)
            self._records[ref.name] = record
        elif not record.worker_ids and record.ref != ref:
            record.ref = ref  # pulled again, or the alias points elsewhere now
            record.cost_bytes = self._loader.cost_bytes(ref)
        return record

    # ------------------------------------------------------------------------- time

    def _on_tick(self) -> None:
        now = time.monotonic()
        for record in self._records.values():
            if record.state is ModelState.BACKOFF and now >= record.retry_at:
                record.state = ModelState.ABSENT
            abandoned = record.unwanted_since is not None and now - record.unwanted_since >= ABANDON_GRACE_S
            if abandoned and record.state is ModelState.LOADING and not self.queued(record.name):
                self._evict(record.name, "abandoned")
        for name in eviction.expired(self._view()):
            self._evict(name, "keep_alive")

    def _announce_states(self) -> None:
        for record in self._records.values():
            if record.state is not record.announced:
                record.announced = record.state
                facts = {"state": record.state.value, "worker": record.worker_id}
                self._events.emit(EventKind.STATE, model=record.name, **facts)

    def _refill_spare(self) -> None:
        if not any(record.state is ModelState.LOADING for record in self._records.values()):
            self._spare.refill(time.monotonic())

    def describe_spare(self) -> dict[str, Any] | None:
        """For `ps`."""
        return self._spare.describe()
