"""What a worker's death or failure does to its model's record: told, counted, tried again or given up."""

from __future__ import annotations

import logging

from mlxk.config.settings import Settings
from mlxk.supervisor import restarts
from mlxk.supervisor.exits import describe_exit
from mlxk.supervisor.log_quotes import quote_log
from mlxk.supervisor.records import ModelRecord
from mlxk.supervisor.states import ExitReport, ModelState
from mlxk.workers.protocol import Fault, FaultCode

log = logging.getLogger("mlxk.pool")

WORKER_SLACK_S = 10.0
"""The worker's own timers come first; these are for what they cannot see."""


def note_death(record: ModelRecord, report: ExitReport) -> Fault | None:
    """The process ended without being asked. Returns what to tell those who waited for its load, if any."""
    loading = record.state is ModelState.LOADING
    when = "while loading" if loading else "while it ran"
    record.failure = f"its process ended {when} ({describe_exit(report)})"
    if tail := quote_log(report.log_tail):
        record.failure += f". Last lines of its log:\n{tail}"
    if not loading:
        return None
    text = f"The model {record.name!r} could not be loaded: {record.failure}"
    return Fault(FaultCode.MODEL_LOAD_FAILED, text, retryable=True)


def note_progress(record: ModelRecord, done_bytes: int, now: float) -> None:
    """A load reports. What it has reported before is no progress."""
    if done_bytes > record.progress_bytes:
        record.progress_bytes, record.progress_at = done_bytes, now


def stuck_load(record: ModelRecord, settings: Settings, now: float) -> Fault | None:
    """Why the load of a LOADING model is to be ended: it gets no further, and its worker's own timers have
    not ended it. A load may take as long as it likes while it gets on."""
    patience_s = max(settings.start_timeout_s, settings.load_stall_s) + WORKER_SLACK_S
    if record.state is not ModelState.LOADING or now - record.progress_at <= patience_s:
        return None
    record.failure = f"its load made no progress for {now - record.progress_at:.0f} s"
    text = f"The model {record.name!r} could not be loaded: {record.failure}. Its process is ended."
    return Fault(FaultCode.MODEL_LOAD_FAILED, text, retryable=True)


def settle_failure(record: ModelRecord, now: float) -> None:
    """The failed worker is gone: ABSENT again, or BACKOFF, or FAILED for good."""
    record.last_error, record.failure = record.failure, None
    log.error("%s: %s", record.name, record.last_error)
    record.crashes += 1
    record.deaths = (*record.deaths, now)[-restarts.MAX_DEATHS :]
    match restarts.after_death(record.deaths, now):
        case restarts.RetryAt(when):
            record.retry_at = when
            record.state = ModelState.BACKOFF if when > now else ModelState.ABSENT
        case restarts.GiveUp(deaths):
            record.state = ModelState.FAILED
            record.last_error = (
                f"The model {record.name!r} failed {deaths} times in a minute and is not tried again "
                f"until `mlxk load {record.name}`: {record.last_error}"
            )


def forgive(record: ModelRecord) -> None:
    """Somebody asked for the model explicitly: a new chance, now."""
    if record.state in (ModelState.FAILED, ModelState.BACKOFF):
        record.state, record.deaths, record.last_error = ModelState.ABSENT, (), None
