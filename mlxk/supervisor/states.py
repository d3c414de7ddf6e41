"""The states of a worker and of a model, and the one table of allowed moves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class WorkerState(StrEnum):
    STARTING = "starting"
    """Spawned; has not said Hello."""
    WARM = "warm"
    """Has imported its engine, holds no model."""
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    """Finishes what runs, takes nothing new."""
    STOPPING = "stopping"
    EXITED = "exited"
    """Reaped. Only now is its memory free."""


class StopStep(StrEnum):
    """How far a stop has gone; kept after the end, so that it can be told how a worker ended."""

    NONE = "none"
    ASKED = "asked"
    TERMED = "termed"
    KILLED = "killed"


class ModelState(StrEnum):
    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"


_S = WorkerState
MOVES: dict[WorkerState, frozenset[WorkerState]] = {
    _S.STARTING: frozenset({_S.WARM, _S.STOPPING, _S.EXITED}),
    _S.WARM: frozenset({_S.LOADING, _S.STOPPING, _S.EXITED}),
    _S.LOADING: frozenset({_S.READY, _S.STOPPING, _S.EXITED}),
    _S.READY: frozenset({_S.DRAINING, _S.STOPPING, _S.EXITED}),
    _S.DRAINING: frozenset({_S.STOPPING, _S.EXITED}),
    _S.STOPPING: frozenset({_S.EXITED}),
    _S.EXITED: frozenset(),
}


class IllegalMove(Exception):
    """A worker was about to make a move that the table does not allow: a bug in its owner."""


def check_move(current: WorkerState, target: WorkerState) -> None:
    if target not in MOVES[current]:
        raise IllegalMove(f"{current} -> {target}")


@dataclass(frozen=True, slots=True)
class ExitReport:
    """How a process ended."""

    code: int | None
    """Exit code, or None if a signal ended it."""
    signal: int | None
    step: StopStep
    """What the front had done by then; NONE means that it died on its own."""
    log_tail: tuple[str, ...] = ()
    n_requests: int = 0
    """So many had not ended."""

    @property
    def wanted(self) -> bool:
        return self.step is not StopStep.NONE
