"""Snapshots of the pool that the policies decide on. Frozen facts; nothing here acts."""

from __future__ import annotations

from dataclasses import dataclass

from mlxk.supervisor.states import ModelState


@dataclass(frozen=True, slots=True)
class ModelView:
    name: str
    state: ModelState
    cost_bytes: int
    """What its worker takes of the budget while it has one, or would take."""
    has_worker: bool
    """A process of it exists (until it is reaped its memory is not free)."""
    in_flight: int = 0
    queued: int = 0
    last_used: float = 0.0
    keep_alive_s: float = -1.0
    """Negative: for ever."""
    pinned: bool = False
    fault_text: str = ""
    """Why it is FAILED."""

    @property
    def idle(self) -> bool:
        return self.state is ModelState.READY and self.in_flight == 0 and self.queued == 0


@dataclass(frozen=True, slots=True)
class WaiterView:
    id: int
    model: str
    holds_lease: bool = True
    """False for an explicit load: it takes no place in the batch."""


@dataclass(frozen=True, slots=True)
class PoolView:
    now: float
    memory_limit_bytes: int
    max_models: int
    """0: no limit of number."""
    max_in_flight: int
    """Leases per model."""
    models: tuple[ModelView, ...]
    waiters: tuple[WaiterView, ...]
    """In the order of their arrival."""
    queue_per_model: int = 128
    """Waiters that may go on waiting."""
    queue_total: int = 512

    def model(self, name: str) -> ModelView:
        return next(m for m in self.models if m.name == name)
