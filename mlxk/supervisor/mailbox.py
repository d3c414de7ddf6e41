"""One request's events on their way from the switchboard to its reader."""

from __future__ import annotations

import asyncio

from mlxk.workers.protocol import Delta, Failed, Finished, RequestEvent


class Mailbox:
    """Filled by the event loop's reader, emptied by one consumer.

    A slow consumer finds everything that has come in one list, so it catches up with one write instead of
    one per token.
    """

    __slots__ = ("_events", "_waiter", "ended", "settled")

    def __init__(self) -> None:
        self._events: list[RequestEvent] = []
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False
        """The reader's last word (Finished or Failed) is in; anything after it is dropped."""
        self.settled = asyncio.Event()
        """The worker has let go of the request, or is gone."""

    def put(self, event: RequestEvent) -> None:
        if self.ended:
            return
        if type(event) is not Delta and isinstance(event, Finished | Failed):
            self.ended = True
        self._events.append(event)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

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
        events, self._events = self._events, []
        return events


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
