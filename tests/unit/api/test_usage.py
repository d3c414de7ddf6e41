"""What the access log says of an answer's pace."""

from __future__ import annotations

import pytest

from mlxk.api.records import RequestRecord
from mlxk.api.usage import note_progress
from mlxk.supervisor.meters import GenerationMeter, ModelMeter


def record_of(*meters: GenerationMeter) -> RequestRecord:
    record = RequestRecord("req-1")
    note_progress(record, meters, n=1)
    return record


def test_the_pace_is_that_after_the_first_token() -> None:
    meter = GenerationMeter(ModelMeter())
    meter.on_granted()
    for step in range(5):
        meter.on_tokens(1, meter.began + 10 + step / 10)
    assert record_of(meter).tokens_per_s == pytest.approx(10)


def test_tokens_that_were_held_back_and_come_at_once_are_no_pace_of_their_own() -> None:
    """Else four tokens of one step would be told as 50,000 a second."""
    meter = GenerationMeter(ModelMeter())
    meter.granted_at = meter.began + 1
    meter.on_tokens(3, meter.began + 3)
    meter.on_tokens(1, meter.began + 3.00002)
    assert record_of(meter).tokens_per_s == pytest.approx(2, rel=0.01)


def test_a_single_token_has_no_pace() -> None:
    meter = GenerationMeter(ModelMeter())
    meter.on_granted()
    meter.on_tokens(1, meter.began + 1)
    assert record_of(meter).tokens_per_s is None
