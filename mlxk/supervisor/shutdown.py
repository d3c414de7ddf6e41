"""How the server ends: the plan of a shutdown, and the thread that enforces it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
INTERRUPT_GRACE_S = 3.0
"""Ctrl-C: each step of the workers' stop ladder gets so long."""
HTTP_CLOSE_S = 2.0
WATCHDOG_MARGIN_S = 10.0


@dataclass(frozen=True, slots=True)
class ShutdownPlan:
    """How the server ends: exit code, and how long requests and workers may go on."""

    exit_code: int
    drain_s: float
    grace_s: float
    cause: str = field(default="", compare=False)
    """For the log: who or what ordered it."""

    def hastened_by(self, other: ShutdownPlan) -> ShutdownPlan:
        """What a later order makes of it: it can only be quicker. Who hastens gives the exit code."""
        if other.drain_s >= self.drain_s and other.grace_s >= self.grace_s:
            return self
        return ShutdownPlan(
            other.exit_code,
            min(self.drain_s, other.drain_s),
            min(self.grace_s, other.grace_s),
            other.cause,
        )

    @property
    def limit_s(self) -> float:
        """Beyond this the orderly end has failed."""
        return self.drain_s + 3 * self.grace_s + HTTP_CLOSE_S + WATCHDOG_MARGIN_S


def start_watchdog(plan: ShutdownPlan, leave: Callable[[], None]) -> None:
    """A thread that ends the process if the orderly end takes too long, also with a stuck event loop."""

    def watch() -> None:
        time.sleep(plan.limit_s)
        sys.stderr.write("mlxk serve: the shutdown took too long; leaving\n")
        leave()

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
