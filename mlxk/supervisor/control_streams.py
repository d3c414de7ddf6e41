"""`mlxk events` over the control socket: several replies to one request, one at a time.

The client asks for each next reply (credit), so one that does not read holds back nothing but its own
subscription, which is bounded. A client that is gone is found out by the ROUTER, which refuses to send to it:
a sign of life goes out every few seconds for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mlxk.supervisor.control_protocol import EventsArgs
from mlxk.supervisor.events import Event, EventBus

ALIVE_S = 5.0
"""At the latest after so long a stream whose client has gone ends."""

Send = Callable[[dict[str, Any], bool], bool]
"""Sends a reply's data, and whether more will follow; False if the client is gone."""


class EventStream:
    """One client's. `run` is its task."""

    def __init__(self, bus: EventBus, args: EventsArgs, send: Send) -> None:
        self._bus = bus
        self._args = args
        self._send = send
        self._asked = asyncio.Event()
        self._asked.set()

    def ask(self) -> None:
        """The client has taken the last reply and wants the next."""
        self._asked.set()

    async def run(self) -> dict[str, Any] | None:
        """The data of the last reply; None if there is nobody to send it to."""
        past = self._bus.recent(max(0, self._args.recent)) if self._args.recent else []
        if not self._args.follow:
            return {"events": past, "ended": False}
        with self._bus.subscribe() as listener:
            # At once, also without events: the client knows then that nothing will be missed.
            if not self._send_more(past):
                return None
            while await self._wait_asked():
                events = await listener.next(ALIVE_S)
                if self._bus.closed:
                    return {"events": events + await listener.next(0), "ended": True}
                if not self._send_more(events):
                    break
        return None

    async def _wait_asked(self) -> bool:
        """False if the client is gone."""
        while not self._asked.is_set() and not self._bus.closed:
            try:
                async with asyncio.timeout(ALIVE_S):
                    await self._asked.wait()
            except TimeoutError:
                if not self._send({"events": []}, True):
                    return False
        return True

    def _send_more(self, events: list[Event]) -> bool:
        self._asked.clear()
        return self._send({"events": events}, True)
