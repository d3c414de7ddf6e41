"""One request's events: in order, all at once for a slow reader, nothing after the last word."""

from __future__ import annotations

import asyncio

from mlxk.supervisor.mailbox import Mailbox
from mlxk.workers.protocol import (
    Delta,
    Failed,
    Fault,
    FaultCode,
    Finished,
    FinishReason,
    RequestEvent,
    Started,
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
