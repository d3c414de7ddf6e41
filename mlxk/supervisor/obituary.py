"""How a worker ended, written down: a line in its model's log, and after a crash a note of its own.

Stands between a worker's task and the pool's, and passes its events on; of a load's progress only as much as
people can read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mlxk import __version__
from mlxk.supervisor.exits import describe_exit
from mlxk.supervisor.log_shelf import LogShelf
from mlxk.supervisor.orders import WorkerEvent
from mlxk.supervisor.states import ExitReport, WorkerState
from mlxk.supervisor.worker_log import WorkerLog

CRASH_LINES = 50
PROGRESS_S = 0.5


class Obituary:
    """Of one worker. A crash is an end that nobody ordered, or one that was ordered because it failed (it
    could not load its model, or was stuck)."""

    def __init__(
        self,
        worker_id: str,
        pid: int,
        output: WorkerLog,
        shelf: LogShelf,
        pass_on: Callable[[WorkerEvent], None],
    ) -> None:
        self._worker_id = worker_id
        self._pid = pid
        self._output = output
        self._shelf = shelf
        self._pass_on = pass_on
        self._started_at = time.time()
        self._state = WorkerState.STARTING
        self._failure: str | None = None
        self._next_progress = 0.0

    def take(self, event: WorkerEvent) -> None:
        if event.progress is not None:
            now = time.monotonic()
            if now < self._next_progress and event.progress.done_bytes < event.progress.total_bytes:
                return
            self._next_progress = now + PROGRESS_S
        if event.failure is not None:
            self._failure = event.failure.message
        if event.state is WorkerState.EXITED and event.exit is not None:
            self._write(event.exit)
        elif event.state is not WorkerState.STOPPING:
            self._state = event.state
        self._pass_on(event)

    def _write(self, report: ExitReport) -> None:
        failed = self._failure is not None or not report.wanted
        self._output.last_note(f"has ended: {describe_exit(report)}")
        if failed and self._output.model is not None:
            self._shelf.note_crash(self._crash(self._output.model, report))

    def _crash(self, model: str, report: ExitReport) -> dict[str, Any]:
        return {
            "model": model,
            "worker": self._worker_id,
            "pid": self._pid,
            "started_at": _utc(self._started_at),
            "ended_at": _utc(time.time()),
            "state": self._state.value,
            "exit": {"code": report.code, "signal": report.signal, "step": report.step.value},
            "reason": self._failure or describe_exit(report),
            "requests": report.n_requests,
            "lines": list(self._output.tail(CRASH_LINES)),
            "version": __version__,
        }


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
