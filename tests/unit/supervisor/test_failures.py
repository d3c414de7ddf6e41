"""What a death or failure makes of a model's record."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxk.store.catalog import ModelRef, Source
from mlxk.supervisor.failures import forgive, note_death, settle_failure
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
