"""One request's events: in order, all at once for a slow reader, nothing after the last word."""

from __future__ import annotations

import asyncio

from mlxk.supervisor.mailbox import MANY, Mailbox, merge_deltas
from mlxk.workers.protocol import (
    Delta,
    Failed,
    Fault,
    FaultCode,
    Finished,
    FinishReason,
    RequestEvent,
    Started,
    TokenLogprob,
    ToolCall,
    Usage,
)
from tests.unit.supervisor.aio import in_loop, turns

STARTED = Started("r1", 3, 0, 16)
FINISHED = Finished("r1", FinishReason.STOP, Usage())
FAILED = Failed("r1", Fault(FaultCode.WORKER_DIED, "gone"))


@in_loop
async def test_a_slow_reader_finds_everything_in_one_list() -> None:
    mailbox = Mailbox()
    events: list[RequestEvent] = [STARTED, Delta("r1", "a"), Delta("r1", "b"), FINISHED]
    for event in events:
        mailbox.put(event)
    assert await mailbox.take() == events


@in_loop
async def test_a_waiting_reader_is_woken_by_the_first_event() -> None:
    mailbox = Mailbox()
    reader = asyncio.create_task(mailbox.take())
    await turns()
    assert not reader.done()
    mailbox.put(STARTED)
    assert await reader == [STARTED]


@in_loop
async def test_silence_ends_with_an_empty_list_and_loses_nothing() -> None:
    mailbox = Mailbox()
    assert await mailbox.take(0.001) == []
    mailbox.put(STARTED)
    assert await mailbox.take(0.001) == [STARTED]


@in_loop
async def test_nothing_comes_after_the_last_word() -> None:
    mailbox = Mailbox()
    mailbox.put(FAILED)
    mailbox.put(Delta("r1", "late"))
    mailbox.put(FINISHED)
    assert await mailbox.take() == [FAILED]
    assert mailbox.ended


@in_loop
async def test_a_cancelled_reader_leaves_the_events_to_the_next() -> None:
    mailbox = Mailbox()
    reader = asyncio.create_task(mailbox.take())
    await turns()
    reader.cancel()
    await asyncio.wait([reader])
    mailbox.put(STARTED)
    assert await mailbox.take() == [STARTED]


@in_loop
async def test_an_event_that_crosses_with_the_cancellation_is_not_lost() -> None:
    mailbox = Mailbox()
    reader = asyncio.create_task(mailbox.take())
    await turns()
    mailbox.put(STARTED)
    reader.cancel()
    await asyncio.wait([reader])
    assert await mailbox.take() == [STARTED]


def test_a_listener_is_told_once_of_what_lies_there_and_again_when_it_has_taken_it() -> None:
    mailbox = Mailbox()
    told: list[str] = []
    mailbox.listen(lambda: told.append("events"), lambda: told.append("end"))
    mailbox.put(STARTED)
    for _ in range(3 * MANY):
        mailbox.put_delta(Delta("r1", "a"), 0.0)
    assert told == ["events"]
    merged = mailbox.take_now()
    assert "".join(event.content for event in merged if isinstance(event, Delta)) == "a" * 3 * MANY
    assert len(merged) < MANY
    assert mailbox.take_now() == []
    mailbox.put(FINISHED)
    assert told == ["events", "events", "end"]
    assert mailbox.take_now() == [FINISHED]


def test_who_has_stopped_listening_is_told_nothing() -> None:
    mailbox = Mailbox()
    told: list[str] = []
    mailbox.listen(lambda: told.append("events"), lambda: told.append("end"))
    mailbox.listen(None)
    mailbox.put(FAILED)
    assert told == []
    assert mailbox.take_now() == [FAILED]


CALL = ToolCall("c1", "f", "{}")


def test_neighbouring_deltas_become_one() -> None:
    logprob = TokenLogprob(1, b"a", -0.5)
    events: list[RequestEvent] = [
        STARTED,
        Delta("r1", reasoning="th"),
        Delta("r1", reasoning="ink", tokens=2),
        Delta("r1", "a", logprobs=[logprob]),
        Delta("r1"),
        Delta("r1", "b", logprobs=[logprob]),
        Delta("r1", tool_calls=[CALL]),
        FINISHED,
    ]
    merged = merge_deltas(events)
    assert merged == [STARTED, Delta("r1", "ab", "think", [CALL], 7, [logprob, logprob]), FINISHED]


def test_a_merge_changes_no_order() -> None:
    """One delta is read as reasoning, content, calls: what comes in another order stays apart."""
    events: list[RequestEvent] = [
        Delta("r1", "a"),
        Delta("r1"),
        Delta("r1", reasoning="b"),
        Delta("r1", tool_calls=[CALL]),
        Delta("r1"),
        Delta("r1", "c"),
    ]
    assert merge_deltas(events) == [
        Delta("r1", "a", tokens=2),
        Delta("r1", reasoning="b", tool_calls=[CALL], tokens=3),
        Delta("r1", "c"),
    ]


def test_a_merge_knows_all_parts_of_a_delta() -> None:
    """A new field must be merged, too."""
    known = ("id", "content", "reasoning", "tool_calls", "tokens", "logprobs")
    assert Delta.__struct_fields__ == known


@in_loop
async def test_who_never_reads_costs_the_text_and_not_an_object_for_each_token() -> None:
    mailbox = Mailbox()
    for number in range(20 * MANY):
        mailbox.put_delta(Delta("r1", f"{number} "), 0.0)
        assert len(mailbox._events) <= MANY
    mailbox.put(FINISHED)
    *deltas, end = await mailbox.take()
    assert end == FINISHED
    texts = [delta.content for delta in deltas if isinstance(delta, Delta)]
    assert "".join(texts) == "".join(f"{number} " for number in range(20 * MANY))
    assert sum(delta.tokens for delta in deltas if isinstance(delta, Delta)) == 20 * MANY


@in_loop
async def test_what_cannot_be_merged_is_not_tried_for_every_token() -> None:
    mailbox = Mailbox()
    for _ in range(2 * MANY):
        mailbox.put_delta(Delta("r1", "a"), 0.0)
        mailbox.put_delta(Delta("r1", reasoning="b"), 0.0)
    assert mailbox._full_at > 2 * MANY
    assert 2 * MANY < len(await mailbox.take()) < 4 * MANY
    assert mailbox._full_at == MANY
