"""One request's events on their way from the switchboard to its reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from mlxk.supervisor.meters import GenerationMeter
from mlxk.workers.protocol import Delta, Finished, LastWord, RequestEvent, Started

MANY = 256
"""Events that wait for a reader before their deltas are merged: one who never reads costs the text, not an
object for each token."""


def merge_deltas(events: list[RequestEvent]) -> list[RequestEvent]:
    """The same events with neighbouring deltas put together, where the order of their parts allows it: one
    delta is read as its reasoning, then its content, then its calls."""
    merged: list[RequestEvent] = []
    run: list[Delta] = []
    reached = 0
    """The last kind of part in `run`."""
    for event in events:
        if run and not (isinstance(event, Delta) and reached <= _first_part(event)):
            merged.append(_joined(run))
            run, reached = [], 0
        if isinstance(event, Delta):
            run.append(event)
            reached = max(reached, _last_part(event))
        else:
            merged.append(event)
    return [*merged, _joined(run)] if run else merged


def _first_part(delta: Delta) -> int:
    return 0 if delta.reasoning else 1 if delta.content else 2


def _last_part(delta: Delta) -> int:
    return 2 if delta.tool_calls else 1 if delta.content else 0


def _joined(run: list[Delta]) -> Delta:
    if len(run) == 1:
        return run[0]
    return Delta(
        run[0].id,
        "".join([one.content for one in run]),
        "".join([one.reasoning for one in run]),
        [call for one in run for call in one.tool_calls],
        sum(one.tokens for one in run),
        [logprob for one in run for logprob in one.logprobs],
    )


class Mailbox:
    """Filled by the event loop's reader, emptied by one consumer: by waiting (`take`), or when it is told
    that something has come (`listen`, `take_now`), which spares a stream a task's wake-up for each token.

    A slow consumer finds everything that has come in one list, so it catches up with one write instead of
    one per token.
    """

    __slots__ = ("_events", "_full_at", "_meter", "_on_end", "_on_events", "ended", "last_word", "settled")

    def __init__(self, meter: GenerationMeter | None = None) -> None:
        """`meter` counts what comes, also when nobody reads it any more."""
        self._meter = meter
        self._events: list[RequestEvent] = []
        self._full_at = MANY
        self._on_events: Callable[[], object] | None = None
        self._on_end: Callable[[], object] | None = None
        self.ended = False
        """The reader's last word is in; anything after it is dropped."""
        self.last_word: LastWord | None = None
        self.settled = asyncio.Event()
        """The worker has let go of the request, or is gone."""

    def put_delta(self, delta: Delta, now: float) -> None:
        """The hot path. `now` (monotonic) is when it came."""
        if self._meter is not None:
            self._meter.on_tokens(delta.tokens, now)
        if self.ended:
            return
        events = self._events
        events.append(delta)
        if len(events) == 1:
            if self._on_events is not None:
                self._on_events()
        elif len(events) >= self._full_at:
            self._events = merge_deltas(events)
            # What cannot be merged is not tried again and again.
            self._full_at = max(MANY, 2 * len(self._events))

    def put(self, event: RequestEvent) -> None:
        """Any other event. (A `Delta` that comes this way is not counted.)"""
        if self._meter is not None:
            self._count(self._meter, event)
        if self.ended:
            return
        if isinstance(event, LastWord):
            self.ended, self.last_word = True, event
        self._events.append(event)
        if len(self._events) == 1 and self._on_events is not None:
            self._on_events()
        if self.ended and self._on_end is not None:
            self._on_end()

    def listen(
        self, on_events: Callable[[], object] | None, on_end: Callable[[], object] | None = None
    ) -> None:
        """Call `on_events` whenever events come to an empty mailbox, `on_end` with the last word. They must
        be quick, and not raise: they stand between a worker's frame and all streams. None: nobody listens."""
        self._on_events, self._on_end = on_events, on_end

    def take_now(self) -> list[RequestEvent]:
        """All events that are there."""
        events = self._events
        if events:
            self._events, self._full_at = [], MANY
        return events

    @staticmethod
    def _count(meter: GenerationMeter, event: RequestEvent) -> None:
        if isinstance(event, Started):
            meter.on_started(event)
        elif isinstance(event, Finished):
            meter.on_finished(event.usage)

    async def take(self, timeout_s: float | None = None) -> list[RequestEvent]:
        """All events that are there; waits for one; [] after `timeout_s`."""
        if not self._events:
            loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            self._on_events = partial(_settle, waiter)
            timer = None if timeout_s is None else loop.call_later(timeout_s, _settle, waiter)
            try:
                await waiter
            finally:
                if timer is not None:
                    timer.cancel()
                self._on_events = None
        return self.take_now()


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
