"""One request's events on their way from the switchboard to its reader."""

from __future__ import annotations

import asyncio

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
    """Filled by the event loop's reader, emptied by one consumer.

    A slow consumer finds everything that has come in one list, so it catches up with one write instead of
    one per token.
    """

    __slots__ = ("_events", "_full_at", "_meter", "_waiter", "ended", "last_word", "settled")

    def __init__(self, meter: GenerationMeter | None = None) -> None:
        """`meter` counts what comes, also when nobody reads it any more."""
        self._meter = meter
        self._events: list[RequestEvent] = []
        self._full_at = MANY
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False
        """The reader's last word is in; anything after it is dropped."""
        self.last_word: LastWord | None = None
        self.settled = asyncio.Event()
        """The worker has let go of the request, or is gone."""

    def put_delta(self, delta: Delta, now: float) -> None:
        """The hot path. `now` (monotonic) is when it came."""
        if self._meter is not None:
            self._meter.on_tokens(delta.tokens, now)
        if not self.ended:
            self._events.append(delta)
            if len(self._events) >= self._full_at:
                self._events = merge_deltas(self._events)
                # What cannot be merged is not tried again and again.
                self._full_at = max(MANY, 2 * len(self._events))
            if self._waiter is not None:
                self._wake(self._waiter)

    def put(self, event: RequestEvent) -> None:
        """Any other event. (A `Delta` that comes this way is not counted.)"""
        if self._meter is not None:
            self._count(self._meter, event)
        if self.ended:
            return
        if isinstance(event, LastWord):
            self.ended, self.last_word = True, event
        self._events.append(event)
        if self._waiter is not None:
            self._wake(self._waiter)

    def _wake(self, waiter: asyncio.Future[None]) -> None:
        self._waiter = None
        _settle(waiter)

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
            waiter = self._waiter = loop.create_future()
            timer = None if timeout_s is None else loop.call_later(timeout_s, _settle, waiter)
            try:
                await waiter
            finally:
                if timer is not None:
                    timer.cancel()
                self._waiter = None
        events, self._events, self._full_at = self._events, [], MANY
        return events


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
