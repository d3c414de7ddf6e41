"""A restart without a gap: a model's new worker is ready before the old one takes its last request.

Only the pool's task calls this.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from mlxk.supervisor.events import EventBus, EventKind
from mlxk.supervisor.exits import describe_exit
from mlxk.supervisor.loader import Loader
from mlxk.supervisor.orders import StopOrder
from mlxk.supervisor.records import Lease, ModelRecord, RestartResult, StopResult
from mlxk.supervisor.states import ExitReport, ModelState
from mlxk.workers.protocol import Fault, FaultCode, FaultError

log = logging.getLogger("mlxk.pool")


class Succession:
    def __init__(self, loader: Loader, events: EventBus) -> None:
        self._loader = loader
        self._events = events

    def begin(self, record: ModelRecord, order: StopOrder) -> None:
        """Beside the READY worker; `order` is for that one, when its successor is ready."""
        try:
            record.successor_id, is_warm = self._loader.start(record)
        except OSError as error:
            text = f"No process could be started: {error}"
            refuse_restart(record, Fault(FaultCode.MODEL_LOAD_FAILED, text, retryable=True))
            return
        record.restart_order, record.successor_failure = order, None
        if is_warm:
            self._loader.order_load(record, record.successor_id)

    def succeed(self, record: ModelRecord) -> None:
        """The successor is ready: it takes the next requests, and the old worker drains."""
        old, new, order = record.worker_id, record.successor_id, record.restart_order
        assert old is not None
        assert order is not None
        record.leaving[old] = record.in_flight
        record.worker_id, record.successor_id, record.in_flight, record.n_brief = new, None, 0, 0
        record.state, record.failure = ModelState.READY, None
        record.memory_before_stop = self._loader.memory_of(old)
        self._events.emit(EventKind.REPLACED, model=record.name, worker=new, old_worker=old)
        self._loader.end(old, order)

    def on_successor_lost(self, record: ModelRecord, report: ExitReport) -> None:
        """The restart has failed; the old worker goes on as if nothing had been."""
        record.successor_id, record.restart_order = None, None
        failure = record.successor_failure
        why = failure.message if failure else f"its new process ended ({describe_exit(report)})"
        text = f"The model {record.name!r} could not be restarted, its old process goes on: {why}"
        log.error("%s", text)
        record.last_error = text
        refuse_restart(record, Fault(FaultCode.MODEL_LOAD_FAILED, text, retryable=True))


def promote(record: ModelRecord) -> None:
    """The old worker died while its successor was being made: now that one is the model's load."""
    record.worker_id, record.successor_id = record.successor_id, None
    record.state, record.restart_order = ModelState.LOADING, None


def give_up(record: ModelRecord) -> None:
    """The successor is not wanted any more; it leaves like a replaced one."""
    if record.successor_id is not None:
        record.leaving[record.successor_id] = 0
        record.successor_id, record.restart_order = None, None


def settle(record: ModelRecord) -> None:
    """Tells those who wait for the end of a stop or a restart, if it has come."""
    if record.leaving:
        return
    if record.worker_id is None:
        freed_bytes = record.memory_before_stop
        if not record.restart_waiters:  # else the restart tells it, too
            record.memory_before_stop = 0
        stops, record.stop_waiters = record.stop_waiters, []
        for stopped in stops:
            if not stopped.done():
                stopped.set_result(StopResult(record.name, True, freed_bytes))
    elif record.state is ModelState.READY and record.successor_id is None and record.restart_waiters:
        freed_bytes, record.memory_before_stop = record.memory_before_stop, 0
        seamless, record.restart_order = record.restart_order is not None, None
        load_s = record.loaded.load_s if record.loaded else 0.0
        restarts, record.restart_waiters = record.restart_waiters, []
        for restarted in restarts:
            if not restarted.done():
                restarted.set_result(RestartResult(record.name, load_s, freed_bytes, seamless))


def refuse_restart(record: ModelRecord, reason: Fault) -> None:
    restarts, record.restart_waiters = record.restart_waiters, []
    for restarted in restarts:
        if not restarted.done():
            restarted.set_exception(FaultError(reason))


def pass_refusal(granted: asyncio.Future[Lease], restarts: Iterable[asyncio.Future[RestartResult]]) -> None:
    """Restarts that had to wait for their model like a request, and were refused like one."""
    if not granted.cancelled() and (error := granted.exception()) is not None:
        for restarted in restarts:
            if not restarted.done():
                restarted.set_exception(error)
