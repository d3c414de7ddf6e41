"""What the pool's task does with what it is told: who waits, who is served, what is loaded and ended.

Synchronous, and called by that task only (`pool`). It carries out what the policies decide (`admission`,
`eviction`); what workers tell is taken in `attendance`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from mlxk.config.settings import Settings
from mlxk.store.catalog import ModelRef
from mlxk.supervisor import admission, eviction
from mlxk.supervisor.attendance import Attendance
from mlxk.supervisor.budget import Budget
from mlxk.supervisor.crew import Crew
from mlxk.supervisor.events import EventBus, EventKind
from mlxk.supervisor.failures import forgive, stuck_load
from mlxk.supervisor.load_plan import LoadPlan, plan_load
from mlxk.supervisor.loader import Loader
from mlxk.supervisor.measured import MeasuredPeaks
from mlxk.supervisor.orders import StopOrder, WorkerEvent
from mlxk.supervisor.records import Lease, ModelRecord, RestartResult, StopResult, Waiter
from mlxk.supervisor.states import ModelState
from mlxk.supervisor.succession import Succession, give_up, pass_refusal, refuse_restart
from mlxk.supervisor.views import PoolView
from mlxk.supervisor.waiting import WaitingRoom
from mlxk.workers.protocol import Fault, FaultCode, FaultError

log = logging.getLogger("mlxk.pool")

ABANDON_GRACE_S = 1.0
"""A load whose last waiter has left goes on for so long: the client may be retrying."""


class PoolState:
    """`tell` is handed to every worker; what comes through it must come back to `on_worker`."""

    def __init__(
        self,
        settings: Settings,
        crew: Crew,
        memory_limit_bytes: int,
        events: EventBus,
        measured: MeasuredPeaks,
        tell: Callable[[WorkerEvent], None],
    ) -> None:
        self._settings = settings
        self.crew = crew
        self.events = events
        self.records: dict[str, ModelRecord] = {}
        self.waiting = WaitingRoom()
        self.budget = Budget(settings, memory_limit_bytes, crew, self.records, measured, events)
        self.loader = Loader(settings, crew, tell, self.budget)
        self.succession = Succession(self.loader, events)
        self.on_worker = Attendance(self).on_worker
        self._closing: Fault | None = None

    # ------------------------------------------------------------------- requests

    def on_wait(self, waiter: Waiter, ref: ModelRef, keep_alive_s: float | None) -> None:
        if waiter.granted.done():
            return
        if self._closing is not None:
            waiter.granted.set_exception(FaultError(self._closing))
            return
        record = self._record(ref)
        record.keep_alive_s = record.default_keep_alive_s if keep_alive_s is None else keep_alive_s
        record.unwanted_since = None
        self.waiting.enter(waiter)

    def on_waiter_left(self, waiter: Waiter) -> None:
        if self.waiting.leave(waiter.id) is None and waiter.granted.done():
            if waiter.holds_lease and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self.on_release(waiter.granted.result())
            return
        record = self.records.get(waiter.model)
        if record and record.state is ModelState.LOADING and not self.waiting.queued(waiter.model):
            record.unwanted_since = time.monotonic()

    def on_release(self, lease: Lease) -> None:
        record = self.records.get(lease.model)
        if record is None:
            return
        if record.worker_id == lease.worker_id:
            record.in_flight -= 1
            record.n_brief -= lease.is_brief
            record.last_used = time.monotonic()
        elif lease.worker_id in record.leaving:
            record.leaving[lease.worker_id] -= 1
        # else: the worker it was on is gone, and its count with it

    def on_stuck(self, lease: Lease, why: str) -> None:
        worker = self.crew.workers.get(lease.worker_id)
        if worker is None:
            return
        log.error("%s (%s) is stuck: %s", lease.worker_id, lease.model, why)
        text = f"The model's process was stuck ({why}) and has been ended. Try again."
        record = self.records.get(lease.model)
        if record is not None and record.worker_id == lease.worker_id:
            record.state = ModelState.STOPPING  # from this moment on nobody gets a lease on it
        worker.post(StopOrder(Fault(FaultCode.WORKER_DIED, text, True), 0, 0, kill=True))

    def on_stop(
        self, name: str, drain_s: float, grace_s: float, done: asyncio.Future[StopResult] | None
    ) -> None:
        reason = Fault(FaultCode.MODEL_STOPPED, f"The model {name!r} was stopped.", retryable=True)
        self.waiting.refuse_all(reason, name)
        record = self.records.get(name)
        if record is not None:
            record.comes_again = False
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
            record.memory_before_stop = sum(self.loader.memory_of(one) for one in record.worker_ids)
            record.state = ModelState.STOPPING
            self.budget.observe(record)
        for worker_id in record.worker_ids:
            self.loader.end(worker_id, order)

    def on_restart(
        self, ref: ModelRef, drain_s: float, grace_s: float, done: asyncio.Future[RestartResult]
    ) -> None:
        if done.done():
            return  # who asked for it has gone
        if self._closing is not None:
            done.set_exception(FaultError(self._closing))
            return
        record = self._record(ref)
        forgive(record)
        record.restart_waiters.append(done)
        text = f"The model {ref.name!r} was restarted. Try again."
        order = StopOrder(Fault(FaultCode.MODEL_STOPPED, text, retryable=True), drain_s, grace_s)
        record.ref = ref  # what the new one loads
        self._drop_outdated_load(record, order)
        if record.state is ModelState.READY and record.successor_id is None:
            if self._has_room_for_two(record):
                self.succession.begin(record, order)
            else:
                log.info("restarting %s: no room for two, so its process ends first", record.name)
                record.comes_again = True
                self._end_workers(record, order)
        if record.state is not ModelState.READY:
            self._load_for_restarts(record, [done])

    def _drop_outdated_load(self, record: ModelRecord, order: StopOrder) -> None:
        """One that began with other settings (a reload has come): who restarts a model wants those of now."""
        successor_id = record.successor_id
        if successor_id is not None and self.loader.is_outdated(record, successor_id):
            give_up(record)
            self.loader.end(successor_id, order)
        loads = record.worker_id if record.state is ModelState.LOADING else None
        if loads is not None and self.loader.is_outdated(record, loads):
            self._end_workers(record, order)

    def go_on_restarting(self, record: ModelRecord) -> None:
        """A process has died under a restart, which now depends on another load."""
        pending = [restarted for restarted in record.restart_waiters if not restarted.done()]
        if pending and not record.restart_loads:
            self._load_for_restarts(record, pending)

    def _load_for_restarts(self, record: ModelRecord, restarts: list[asyncio.Future[RestartResult]]) -> None:
        """Nobody else may be asking for the model: this makes it load, and READY settles the restarts."""

        def on_done(granted: asyncio.Future[Lease]) -> None:
            record.restart_loads -= 1
            pass_refusal(granted, restarts)

        waiter = self.waiting.new(record.name, holds_lease=False)
        waiter.granted.add_done_callback(on_done)
        record.restart_loads += 1
        self.waiting.enter(waiter)

    def _has_room_for_two(self, record: ModelRecord) -> bool:
        """Without evicting anybody; and a model counts once, however many processes it has."""
        room = eviction.make_room(replace(self._view(), max_models=0), record.cost_bytes)
        return isinstance(room, eviction.Fits)

    def on_configure(self, settings: Settings, memory_limit_bytes: int) -> None:
        self._settings = settings
        self.budget.configure(settings, memory_limit_bytes)
        self.loader.configure(settings)
        for record in self.records.values():
            overridden = record.keep_alive_s != record.default_keep_alive_s
            record.pinned, record.default_keep_alive_s = self.loader.keeping(record.name)
            record.max_batch = self.loader.max_batch(record.name)
            if not overridden:  # else a request has said otherwise, and that stands until the next one
                record.keep_alive_s = record.default_keep_alive_s
            if not record.worker_ids:
                self.budget.prepare(record)

    def on_close(self, reason: Fault, drain_s: float, grace_s: float) -> None:
        self._closing = reason
        self.loader.spare.dismiss()
        self.waiting.refuse_all(reason)
        for record in self.records.values():
            refuse_restart(record, reason)
            self.budget.observe(record)
            if record.worker_id is not None:
                record.state = ModelState.STOPPING
        self.crew.stop_all(StopOrder(reason, drain_s, grace_s))

    def on_forgive(self, name: str) -> None:
        if (record := self.records.get(name)) is not None:
            forgive(record)

    # ------------------------------------------------------------------ decisions

    def carry_out(self) -> None:
        if self._closing is not None:
            return
        if self.waiting:
            for decision in admission.decide(self._view()):
                match decision:
                    case admission.Grant(waiter_id):
                        self._grant(waiter_id)
                    case admission.StartLoad(name):
                        self._start_load(self.records[name])
                    case admission.StopIdle(name, room_for):
                        self._evict(name, "room", room_for=room_for)
                    case eviction.Trim():
                        self.budget.order_trim(decision)
                    case admission.Refuse(waiter_id, reason):
                        self.waiting.refuse(waiter_id, reason)
        self._refill_spare()

    def _view(self) -> PoolView:
        return PoolView(
            now=time.monotonic(),
            memory_limit_bytes=self.budget.limit_bytes,
            max_models=self._settings.max_models,
            max_in_flight=self._settings.max_batch,
            models=tuple(record.view(self.waiting.queued(record.name)) for record in self.records.values()),
            waiters=self.waiting.views(),
            queue_per_model=self._settings.queue_per_model,
            queue_total=self._settings.queue_total,
            max_wait_s=self._settings.max_wait_s,
            swap_after_s=self._settings.swap_after_s,
        )

    def _grant(self, waiter_id: int) -> None:
        waiter = self.waiting.leave(waiter_id)
        if waiter is None or waiter.granted.done():
            return  # it has left; its cancellation is on the way to us
        record = self.records[waiter.model]
        assert record.worker_id is not None
        if waiter.holds_lease:
            record.in_flight += 1
            record.n_brief += waiter.is_brief
        record.last_used = time.monotonic()
        # Its task runs before any later order of ours: a drain finds its request at the worker already.
        waiter.granted.set_result(Lease(record.name, record.worker_id, waiter.is_brief))

    def _evict(self, name: str, reason: str, **facts: str) -> None:
        """`reason`: "room", "keep_alive" or "abandoned"."""
        log.info("evicting %s (%s)", name, " for ".join([reason, *facts.values()]))
        self.events.emit(EventKind.EVICTED, model=name, reason=reason, **facts)
        record = self.records[name]
        give_up(record)
        text = f"The model {name!r} was unloaded to make room. Try again."
        stopped = Fault(FaultCode.MODEL_STOPPED, text, retryable=True)
        self._end_workers(record, StopOrder(stopped, 0, self._settings.stop_grace_s))

    def _start_load(self, record: ModelRecord) -> None:
        try:
            self.budget.prepare(record)
            record.load_began = record.progress_at = time.monotonic()
            record.progress_bytes = -1
            record.worker_id, is_warm = self.loader.start(record)
        except OSError as error:
            reason = Fault(FaultCode.MODEL_LOAD_FAILED, f"No process could be started: {error}", True)
            self.waiting.refuse_all(reason, record.name)
            refuse_restart(record, reason)
            return
        record.state = ModelState.LOADING
        if is_warm:
            self.loader.order_load(record, record.worker_id)
        self.budget.share_out()

    def on_plan(self, ref: ModelRef, answer: asyncio.Future[LoadPlan]) -> None:
        if not answer.done():
            record = self.records.get(ref.name)
            is_held = record is not None and record.worker_ids
            held = record.view(self.waiting.queued(ref.name)) if record and is_held else None
            answer.set_result(plan_load(self._view(), ref.name, self.budget.estimate(ref), held))

    def _record(self, ref: ModelRef) -> ModelRecord:
        record = self.records.get(ref.name)
        if record is None:
            pinned, keep_alive_s = self.loader.keeping(ref.name)
            record = ModelRecord(ref, 0, pinned, keep_alive_s, keep_alive_s)
            record.max_batch = self.loader.max_batch(ref.name)
            self.budget.prepare(record)
            self.records[ref.name] = record
        elif not record.worker_ids and record.ref != ref:
            record.ref = ref  # pulled again, or the alias points elsewhere now
            self.budget.prepare(record)
        return record

    # ------------------------------------------------------------------------- time

    def on_tick(self) -> None:
        now = time.monotonic()
        for record in self.records.values():
            if (reason := stuck_load(record, self._settings, now)) is not None:
                log.error("%s", reason.message)
                self.waiting.refuse_all(reason, record.name)
                self._end_workers(record, StopOrder(reason, 0, 0, kill=True))
            if record.state is ModelState.BACKOFF and now >= record.retry_at:
                record.state = ModelState.ABSENT
            abandoned = record.unwanted_since is not None and now - record.unwanted_since >= ABANDON_GRACE_S
            if abandoned and record.state is ModelState.LOADING and not self.waiting.queued(record.name):
                self._evict(record.name, "abandoned")
        for name in eviction.expired(self._view()):
            self._evict(name, "keep_alive")
        self.budget.on_tick(now)
        for trim in eviction.balance(self._view()):
            self.budget.order_trim(trim)
        self.budget.share_out()

    def announce_states(self) -> None:
        for record in self.records.values():
            if record.state is not record.announced:
                record.announced = record.state
                facts = {"state": record.state.value, "worker": record.worker_id}
                self.events.emit(EventKind.STATE, model=record.name, **facts)

    def _refill_spare(self) -> None:
        if not any(record.state is ModelState.LOADING for record in self.records.values()):
            self.loader.spare.refill(time.monotonic())
