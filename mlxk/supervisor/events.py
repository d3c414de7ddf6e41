"""What happens in the pool, told to whoever listens: `mlxk events`, `GET /pool/events`, the log.

Emitting never waits and never fails: a listener that reads too slowly loses events and is told how many.
Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Any

KEPT_EVENTS = 256
"""So many of the past are kept for a listener that asks for them."""
BACKLOG_EVENTS = 1024
"""So many may wait for one listener."""

Event = dict[str, Any]
"""`{"n", "time", "kind"}` and facts: plain data, ready for JSON. `time` is seconds since 1970, UTC."""


class EventKind(StrEnum):
    STATE = "state"
    """A model's state has changed: model, state, worker."""
    LOADED = "loaded"
    """model, worker, load_s, memory_bytes."""
    LOAD_PROGRESS = "load_progress"
    """model, worker, done_bytes, total_bytes."""
    TRIMMED = "trimmed"
    """An idle model was asked to shrink its prefix cache: model, max_bytes."""
    EVICTED = "evicted"
    """model, reason: "room" (room_for: the model that gets it), "keep_alive" or "abandoned"."""
    STOPPED = "stopped"
    """A stop has ended with the reap: model, freed_bytes."""
    DIED = "died"
    """A worker ended without being asked, or was ended because it failed: model, worker, exit, reason."""
    REPLACED = "replaced"
    """A restart has put a new worker in the old one's place: model, worker, old_worker."""
    RELOADED = "reloaded"
    """The configuration was read again: changed, or error."""
    SERVER = "server"
    """state: "ready" or "closing"."""
    LOST = "lost"
    """To one listener: it read too slowly and so many events are missing: count."""


class Subscription:
    """One listener's events, in order. Use as a context manager."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._backlog: deque[Event] = deque()
        self._lost = 0
        self._news = asyncio.Event()

    def put(self, event: Event) -> None:
        if len(self._backlog) >= BACKLOG_EVENTS:
            self._lost += 1
            return
        self._backlog.append(event)
        self._news.set()

    def wake(self) -> None:
        self._news.set()

    async def next(self, timeout_s: float | None = None) -> list[Event]:
        """All that has come since the last call; [] after `timeout_s`, or when the bus is closed."""
        if not self._backlog and not self._bus.closed:
            self._news.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError:
                return []
        events = list(self._backlog)
        self._backlog.clear()
        if self._lost:
            events.append({"n": 0, "time": time.time(), "kind": EventKind.LOST.value, "count": self._lost})
            self._lost = 0
        return events

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *error: object) -> None:
        self._bus.leave(self)


class EventBus:
    """One per front."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._recent: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._listeners: set[Subscription] = set()
        self._observers: list[Callable[[Event], None]] = []
        self.closed = False

    def emit(self, kind: EventKind, **facts: Any) -> None:
        event: Event = {"n": next(self._numbers), "time": time.time(), "kind": kind.value, **facts}
        self._recent.append(event)
        for listener in self._listeners:
            listener.put(event)
        for observe in self._observers:
            observe(event)

    def observe(self, callback: Callable[[Event], None]) -> None:
        """Called at once with every event from now on: who counts may lose none. It must not raise."""
        self._observers.append(callback)

    def recent(self, count: int = KEPT_EVENTS, *, after: int = 0) -> list[Event]:
        """The last `count` of the past that are newer than event number `after`, oldest first."""
        past = [event for event in self._recent if event["n"] > after]
        return past[len(past) - min(count, len(past)) :]

    def subscribe(self) -> Subscription:
        """Listens from this moment on, until its `with` block ends."""
        listener = Subscription(self)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Subscription) -> None:
        self._listeners.discard(listener)

    @property
    def n_listeners(self) -> int:
        return len(self._listeners)

    def close(self) -> None:
        """The server ends: every listener takes what is left and goes."""
        self.closed = True
        for listener in self._listeners:
            listener.wake()
