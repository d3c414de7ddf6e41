"""What workers tell the pool: warm, ready, on their way out, gone. Called by the pool's task only."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from mlxk.supervisor.budget import Budget
from mlxk.supervisor.crew import Crew
from mlxk.supervisor.events import EventBus, EventKind
from mlxk.supervisor.exits import describe_exit
from mlxk.supervisor.failures import note_death, note_progress, settle_failure
from mlxk.supervisor.loader import Loader
from mlxk.supervisor.orders import WorkerEvent
from mlxk.supervisor.records import ModelRecord
from mlxk.supervisor.states import ExitReport, ModelState, WorkerState
from mlxk.supervisor.succession import Succession, promote, refuse_restart, settle
from mlxk.supervisor.waiting import WaitingRoom
from mlxk.workers.protocol import Loaded

log = logging.getLogger("mlxk.pool")


class Pool(Protocol):
    """What of `PoolState` is touched here."""

    crew: Crew
    events: EventBus
    records: dict[str, ModelRecord]
    waiting: WaitingRoom
    budget: Budget
    loader: Loader
    succession: Succession

    def go_on_restarting(self, record: ModelRecord) -> None: ...


class Attendance:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def on_worker(self, event: WorkerEvent) -> None:
        name = self._pool.loader.model_of(event.worker_id)
        record = self._pool.records.get(name) if name else None
        if event.trimmed is not None:
            if record is not None:
                self._pool.budget.on_trimmed(record, event.worker_id, event.trimmed)
            return
        match event.state:
            case WorkerState.WARM:
                self._on_warm(event.worker_id, record)
            case WorkerState.LOADING if record is not None and event.progress is not None:
                note_progress(record, event.progress.done_bytes, time.monotonic())
                done = {"done_bytes": event.progress.done_bytes, "total_bytes": event.progress.total_bytes}
                self._pool.events.emit(
                    EventKind.LOAD_PROGRESS, model=record.name, worker=event.worker_id, **done
                )
            case WorkerState.READY if record is not None and event.loaded is not None:
                self._on_ready(record, event.worker_id, event.loaded)
            case WorkerState.STOPPING if record is not None:
                self._on_worker_stopping(record, event)
            case WorkerState.EXITED:
                self._on_exited(event, record)

    def _on_warm(self, worker_id: str, record: ModelRecord | None) -> None:
        if (worker := self._pool.crew.workers.get(worker_id)) is not None:
            self._pool.budget.adopt(worker.vitals.working_set_bytes)
        if self._pool.loader.spare.is_worker(worker_id):
            self._pool.loader.spare.on_warm()
        elif record is not None:
            awaited = record.worker_id if record.state is ModelState.LOADING else record.successor_id
            if worker_id == awaited:
                record.progress_at = time.monotonic()
                self._pool.loader.order_load(record, worker_id)

    def _on_ready(self, record: ModelRecord, worker_id: str, loaded: Loaded) -> None:
        log.info("%s is ready on %s (%.2f s)", record.name, worker_id, loaded.load_s)
        self._pool.loader.spare.postpone()
        record.loads += 1
        record.restarts += record.comes_again or worker_id == record.successor_id
        record.comes_again = False
        if worker_id == record.successor_id:
            self._pool.succession.succeed(record)
        elif worker_id == record.worker_id and record.state is ModelState.LOADING:
            record.state = ModelState.READY
        else:
            return  # it was given up meanwhile
        record.loaded, record.last_error = loaded, None
        record.ready_at = record.last_used = record.last_load = time.monotonic()
        record.batch_end = self._pool.waiting.last_id(record.name)
        self._pool.budget.note_loaded(record, record.ready_at - record.load_began)
        facts = {"load_s": loaded.load_s, "memory_bytes": self._pool.loader.memory_of(worker_id)}
        self._pool.events.emit(EventKind.LOADED, model=record.name, worker=worker_id, **facts)
        settle(record)

    def _on_worker_stopping(self, record: ModelRecord, event: WorkerEvent) -> None:
        if event.worker_id == record.successor_id:
            record.successor_failure = event.failure
        if event.held_bytes and record.worker_ids == [event.worker_id]:
            record.memory_before_stop = event.held_bytes  # after the drain, just before the end
        if event.worker_id != record.worker_id:
            return
        was_loading = record.state is ModelState.LOADING
        record.state = ModelState.STOPPING
        if event.failure is not None:
            record.failure = event.failure.message
            if was_loading:
                self._pool.waiting.refuse_all(event.failure, record.name)

    def _on_exited(self, event: WorkerEvent, record: ModelRecord | None) -> None:
        report = event.exit
        assert report is not None
        if self._pool.loader.spare.is_worker(event.worker_id):
            self._pool.loader.spare.on_exited(report)
        self._pool.loader.forget(event.worker_id)
        if record is None:
            return
        if event.worker_id == record.successor_id:
            self._pool.succession.on_successor_lost(record, report)
        elif event.worker_id in record.leaving:
            del record.leaving[event.worker_id]
        elif event.worker_id == record.worker_id:
            self._on_current_exited(record, event.worker_id, report)
        settle(record)
        self._pool.loader.spare.postpone()

    def _on_current_exited(self, record: ModelRecord, worker_id: str, report: ExitReport) -> None:
        if not report.wanted and (refusal := note_death(record, report)) is not None:
            self._pool.waiting.refuse_all(refusal, record.name)
            refuse_restart(record, refusal)
        record.worker_id, record.loaded, record.in_flight, record.unwanted_since = None, None, 0, None
        record.n_brief = 0
        record.last_load = time.monotonic() if record.state is ModelState.LOADING else record.last_load
        record.state = ModelState.ABSENT
        if not record.worker_ids:
            self._pool.budget.prepare(record)
        if record.failure is not None:
            settle_failure(record, time.monotonic())
            record.comes_again = True
            facts = {"worker": worker_id, "exit": describe_exit(report), "reason": record.last_error}
            self._pool.events.emit(EventKind.DIED, model=record.name, **facts)
        elif record.memory_before_stop:
            self._pool.events.emit(
                EventKind.STOPPED, model=record.name, worker=worker_id, freed_bytes=record.memory_before_stop
            )
        if record.successor_id is not None:
            promote(record)
        self._pool.go_on_restarting(record)
