"""Is a worker's process alive, and what does it say of itself: pings and their answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mlxk.workers.protocol import Pong, WorkerStats

PING_INTERVAL_S = 2.0
PINGS_PER_TIMEOUT = 4
"""A process is stuck when this many pings in a row stayed without answer. Counted, not timed: a front that
was itself stopped for a while (a debugger, a laptop's sleep) must not take the silence for its workers'."""
RATE_WINDOW_S = 1.0
"""Tokens/s is a mean over at least so long: two `ps` in a row must not show a jump."""
ENGINE_STALL_S = 120.0
"""A step that runs so long while requests wait: the engine is stuck. A long prefill makes many steps."""


@dataclass(slots=True)
class Vitals:
    """What is shown of a worker (`ps`); nothing is decided by it."""

    pid: int
    started_at: float
    stats: WorkerStats = field(default_factory=WorkerStats)
    tokens_per_s: float = 0.0
    load_progress: float | None = None
    working_set_bytes: int | None = None
    """What its Metal recommends for the machine."""


class Pulse:
    """Of one worker; its task's own. `ping` sends one, and is false where there is nobody to send it to."""

    def __init__(self, vitals: Vitals, pong_timeout_s: float, ping: Callable[[], bool]) -> None:
        self._vitals = vitals
        self._ping = ping
        self._interval_s = min(PING_INTERVAL_S, pong_timeout_s / PINGS_PER_TIMEOUT)
        now = time.monotonic()
        self.next_at = now + self._interval_s
        """When it is time for `is_due`."""
        self._unanswered = 0
        """Pings since the last pong."""
        self._rate_since = now
        self._rate_from = 0
        self._askers: list[asyncio.Future[None]] = []

    def is_due(self, now: float) -> bool:
        """Whether it is time for a ping. If so, the next one's time begins."""
        if now < self.next_at:
            return False
        self.next_at = now + self._interval_s
        return True

    def beat(self, pong_timeout_s: float) -> str | None:
        """Send the next ping. Or why there will be none: it has been silent for too long."""
        silent_s = self._unanswered * self._interval_s
        if silent_s >= pong_timeout_s:
            return f"it has not answered for {silent_s:.0f} s"
        self._unanswered += 1
        self._ping()
        return None

    def take(self, pong: Pong) -> str | None:
        """Keep what the pong says. Why its engine counts as stuck, if it does."""
        now = time.monotonic()
        stats = self._vitals.stats = pong.stats
        if now - self._rate_since >= RATE_WINDOW_S:
            gained = stats.generated_tokens - self._rate_from
            self._vitals.tokens_per_s = gained / (now - self._rate_since)
            self._rate_since, self._rate_from = now, stats.generated_tokens
        self._unanswered = 0
        askers, self._askers = self._askers, []
        for answered in askers:
            if not answered.done():
                answered.set_result(None)
        if stats.in_flight and stats.step_age_s > ENGINE_STALL_S:
            return f"its engine has been in one step for {stats.step_age_s:.0f} s"
        return None

    async def refresh(self, timeout_s: float) -> None:
        """Ask for fresh vitals and wait for them; at most `timeout_s`, as the process may be stuck."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._askers.append(answered)
        if self._ping():
            await asyncio.wait([answered], timeout=timeout_s)
