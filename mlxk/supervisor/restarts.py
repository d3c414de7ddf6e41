"""Policy: what to do after a model's process has died. Pure; times are seconds of one monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_S = 60.0
MAX_DEATHS = 5
"""So many deaths within the window: the model is FAILED until somebody asks for it explicitly."""
FIRST_WAIT_S = 0.5
MAX_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class RetryAt:
    time: float
    """The next request may start it again from then on."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    deaths: int


def after_death(deaths: tuple[float, ...], now: float) -> RetryAt | GiveUp:
    """`deaths` are the times of this model's deaths, the latest included.

    The first is forgiven at once: a single kill or crash must not cost the next request a wait.
    """
    recent = [t for t in deaths if now - t <= WINDOW_S]
    if len(recent) >= MAX_DEATHS:
        return GiveUp(len(recent))
    if len(recent) <= 1:
        return RetryAt(now)
    return RetryAt(now + min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** (len(recent) - 2)))
