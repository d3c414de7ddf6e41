"""What is said to a worker's task (orders) and by it (events). Frozen facts; nothing here acts."""

from __future__ import annotations

from dataclasses import dataclass

from mlxk.supervisor.states import ExitReport, WorkerState
from mlxk.workers.protocol import Fault, Load, Loaded


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
    max_bytes: int


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
