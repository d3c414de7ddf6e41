"""What is counted of generations and of the pool's events."""

from __future__ import annotations

import pytest

from mlxk.supervisor.events import EventBus, EventKind
from mlxk.supervisor.mailbox import Mailbox
from mlxk.supervisor.meters import GenerationMeter, Histogram, Meters, ModelMeter
from mlxk.workers.protocol import (
    Delta,
    Failed,
    Fault,
    FaultCode,
    Finished,
    FinishReason,
    Started,
    Usage,
)

STARTED = Started("r1", 10, 4, 16)


def test_a_value_on_a_bound_is_below_it() -> None:
    """Prometheus' `le`."""
    histogram = Histogram((0.1, 1.0))
    for value in (0.1, 0.5, 1.0, 1.5):
        histogram.observe(value)
    assert histogram.counts == [1, 2, 1]
    assert histogram.sum == pytest.approx(3.1)


def test_a_copy_is_not_changed_any_more() -> None:
    meter = ModelMeter()
    meter.finishes["stop"] += 1
    copy = meter.copy()
    meter.finishes["stop"] += 1
    meter.load_s.observe(1.0)
    meter.prompt_tokens += 5
    assert (copy.finishes["stop"], sum(copy.load_s.counts), copy.prompt_tokens) == (1, 0, 0)


def _finished(completion_tokens: int) -> Finished:
    return Finished("r1", FinishReason.STOP, Usage(10, completion_tokens, 4))


def test_tokens_are_counted_as_they_come_and_the_last_word_settles_the_sum() -> None:
    model = ModelMeter()
    generation = GenerationMeter(model)
    mailbox = Mailbox(generation)
    mailbox.put(STARTED)
    began = generation.began
    mailbox.put_delta(Delta("r1", "a"), began + 2)
    mailbox.put_delta(Delta("r1", "b"), began + 2.02)
    mailbox.put_delta(Delta("r1", "cde", tokens=3), began + 2.38)  # two were held back: 0.12 s each
    assert (model.generated_tokens, generation.tokens) == (5, 5)
    mailbox.put(_finished(6))  # the end of the sequence has no text
    assert (model.generated_tokens, generation.tokens) == (6, 6)
    assert (model.prompt_tokens, model.cached_tokens) == (10, 4)
    assert (model.cache_hits, model.cache_misses) == (1, 0)
    assert model.ttft_s.sum == pytest.approx(2)
    assert sum(model.ttft_s.counts) == 1
    assert model.inter_token_s.sum == pytest.approx(0.38)
    assert sum(model.inter_token_s.counts) == 4
    assert model.inter_token_s.counts[model.inter_token_s.bounds.index(0.15)] == 3


def test_what_comes_after_the_reader_s_last_word_still_counts() -> None:
    """A shutdown tells its clients at once; the worker goes on for a moment."""
    model = ModelMeter()
    mailbox = Mailbox(GenerationMeter(model))
    mailbox.put(STARTED)
    mailbox.put(Failed("r1", Fault(FaultCode.SHUTTING_DOWN, "bye")))
    mailbox.put_delta(Delta("r1", "a"), 1.0)
    mailbox.put(Finished("r1", FinishReason.ABORT, Usage(10, 3, 4)))
    assert model.generated_tokens == 3
    assert isinstance(mailbox.last_word, Failed)


def test_a_delta_without_tokens_is_no_token() -> None:
    model = ModelMeter()
    generation = GenerationMeter(model)
    generation.on_tokens(0, 5.0)
    assert (sum(model.ttft_s.counts), generation.tokens, generation.has_begun) == (0, 0, False)


def test_events_of_the_pool_are_counted_without_a_loss() -> None:
    """A listener that is behind loses events; a counter must not."""
    bus, meters = EventBus(), Meters()
    bus.observe(meters.on_event)
    for _ in range(3000):
        bus.emit(EventKind.EVICTED, model="a", reason="room")
    bus.emit(EventKind.EVICTED, model="a", reason="keep_alive")
    bus.emit(EventKind.LOADED, model="b", worker="w1", load_s=0.3, memory_bytes=1)
    bus.emit(EventKind.TRIMMED, model="b", max_bytes=1)
    bus.emit(EventKind.SERVER, state="ready")
    assert meters.models["a"].evictions == {"room": 3000, "keep_alive": 1}
    assert meters.models["b"].load_s.sum == pytest.approx(0.3)
    assert meters.models["b"].cache_trims == 1
    assert set(meters.models) == {"a", "b"}
