"""What is said to a worker's task (orders) and by it (events). Frozen facts; nothing here acts."""

from __future__ import annotations

from dataclasses import dataclass

from mlxk.supervisor.states import ExitReport, WorkerState
from mlxk.workers.protocol import Fault, Load, Loaded, LoadProgress, Trimmed


@dataclass(frozen=True, slots=True)
class LoadOrder:
    spec: Load


@dataclass(frozen=True, slots=True)
class StopOrder:
    """End the worker: drain for `drain_s`, then the stop ladder with `grace_s` for each of its steps."""

    reason: Fault
    """What its unfinished requests are told."""
    drain_s: float
    grace_s: float
    kill: bool = False
    """It is known to be stuck: go to SIGKILL at once."""


@dataclass(frozen=True, slots=True)
class TrimOrder:
    """A new budget for the prefix cache, and a new share of the machine. Confirmed by an event `trimmed`."""

    max_bytes: int
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    """What a worker's task tells the pool's. The pool knows of workers only by these."""

    worker_id: str
    state: WorkerState
    loaded: Loaded | None = None
    failure: Fault | None = None
    """With STOPPING: the worker failed (it could not load, or was stuck) and is ended for it."""
    exit: ExitReport | None = None
    """With EXITED."""
    held_bytes: int = 0
    """With STOPPING: what its process held just before."""
    trimmed: Trimmed | None = None
    """A TrimOrder was carried out; `state` is what it was."""
    progress: LoadProgress | None = None
    """With LOADING, again and again."""
