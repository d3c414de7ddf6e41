"""What a death or failure makes of a model's record."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxk.config.settings import Settings
from mlxk.store.catalog import ModelRef, Source
from mlxk.supervisor.failures import forgive, note_death, note_progress, settle_failure, stuck_load
from mlxk.supervisor.records import ModelRecord
from mlxk.supervisor.states import ExitReport, ModelState, StopStep
from mlxk.workers.protocol import FaultCode

DIED = ExitReport(17, None, StopStep.NONE, tuple(f"line {number}" for number in range(30)))


@pytest.fixture
def record(tmp_path: Path) -> ModelRecord:
    return ModelRecord(ModelRef("m", tmp_path, None, Source.LOCAL, 1, 0.0), 1)


def test_a_death_while_loading_tells_the_waiters_the_last_lines_of_the_log(record: ModelRecord) -> None:
    record.state = ModelState.LOADING
    fault = note_death(record, DIED)
    assert fault is not None
    assert fault.code is FaultCode.MODEL_LOAD_FAILED
    assert fault.retryable
    assert "exit code 17" in fault.message
    assert "line 29" in fault.message
    assert "line 3\n" not in fault.message


def test_a_death_of_a_ready_model_refuses_nobody_who_waits(record: ModelRecord) -> None:
    record.state = ModelState.READY
    assert note_death(record, DIED) is None
    assert "while it ran" in (record.failure or "")


def test_a_load_is_ended_when_it_gets_no_further_and_not_for_its_length(record: ModelRecord) -> None:
    settings = Settings(start_timeout_s=60, load_stall_s=120)
    record.state, record.progress_at = ModelState.LOADING, 100.0
    for second in range(200, 2000, 100):  # half an hour, and a little more of it each time
        note_progress(record, second, float(second))
        assert stuck_load(record, settings, second + 99.0) is None
    note_progress(record, 1900, 5000.0)  # what it has said before is no progress
    assert stuck_load(record, settings, 1900 + 129.0) is None
    fault = stuck_load(record, settings, 1900 + 131.0)
    assert fault is not None
    assert (fault.code, fault.retryable) == (FaultCode.MODEL_LOAD_FAILED, True)
    assert "no progress for 131 s" in fault.message
    record.state = ModelState.READY
    assert stuck_load(record, settings, 9000.0) is None


def fail(record: ModelRecord, now: float) -> None:
    record.failure = "it broke"
    record.state = ModelState.ABSENT
    settle_failure(record, now)


def test_failures_lead_from_a_retry_over_a_wait_to_giving_up(record: ModelRecord) -> None:
    states = []
    for second in range(5):
        fail(record, float(second))
        states.append(record.state)
    assert states == [ModelState.ABSENT, *[ModelState.BACKOFF] * 3, ModelState.FAILED]
    assert "mlxk load m" in (record.last_error or "")
    assert "it broke" in (record.last_error or "")


def test_forgiving_lets_a_failed_model_begin_anew(record: ModelRecord) -> None:
    for second in range(5):
        fail(record, float(second))
    forgive(record)
    assert (record.state, record.deaths, record.last_error) == (ModelState.ABSENT, (), None)


def test_forgiving_leaves_a_running_model_alone(record: ModelRecord) -> None:
    record.state, record.deaths = ModelState.READY, (1.0,)
    forgive(record)
    assert (record.state, record.deaths) == (ModelState.READY, (1.0,))
