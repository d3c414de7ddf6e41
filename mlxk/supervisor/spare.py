"""The spare: one worker that has imported its engine already and waits for the next load. The pool's own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from mlxk.supervisor import restarts
from mlxk.supervisor.exits import describe_exit
from mlxk.supervisor.states import ExitReport
from mlxk.supervisor.worker import Worker

log = logging.getLogger("mlxk.pool")

CALM_S = 0.5
"""A new spare is spawned when the pool has been calm for so long: its imports cost a core for seconds."""


class Spare:
    """At most one at a time. `hire` spawns a worker, or raises OSError."""

    def __init__(self, hire: Callable[[], Worker], *, wanted: bool) -> None:
        self._hire = hire
        self.wanted = wanted
        self._worker: Worker | None = None
        self._warm = False
        self._due = 0.0
        self._deaths: tuple[float, ...] = ()

    def is_worker(self, worker_id: str) -> bool:
        return self._worker is not None and self._worker.id == worker_id

    def take(self) -> tuple[Worker, bool] | None:
        """The spare, which is now the caller's, and whether it is warm already."""
        if self._worker is None:
            return None
        taken = self._worker, self._warm
        self._worker, self._warm = None, False
        return taken

    def refill(self, now: float) -> None:
        if not self.wanted or self._worker is not None or now < self._due:
            return
        try:
            self._worker = self._hire()
        except OSError as error:
            log.error("no spare worker could be started: %s", error)
            self._due = now + restarts.MAX_WAIT_S

    def postpone(self) -> None:
        """Something has just happened: not now."""
        self._due = max(self._due, time.monotonic() + CALM_S)

    def on_warm(self) -> None:
        self._warm = True
        self._deaths = ()

    def dismiss(self) -> None:
        """The pool closes, and the spare ends with all others: that is no death to tell of."""
        self._worker, self._warm, self.wanted = None, False, False

    def on_exited(self, report: ExitReport) -> None:
        """It died, or was ended because it did not start as it should: nobody else ends a spare."""
        self._worker, self._warm = None, False
        now = time.monotonic()
        self._deaths = (*self._deaths, now)[-restarts.MAX_DEATHS :]
        log.error("the spare worker died (%s): %s", describe_exit(report), "\n".join(report.log_tail[-8:]))
        match restarts.after_death(self._deaths, now):
            case restarts.RetryAt(when):
                self._due = when + CALM_S
            case restarts.GiveUp():
                self._due = now + restarts.MAX_WAIT_S

    def describe(self) -> dict[str, Any] | None:
        """For `ps`: the spare's id and whether it is warm."""
        if self._worker is None:
            return None
        return {"id": self._worker.id, "pid": self._worker.vitals.pid, "warm": self._warm}
