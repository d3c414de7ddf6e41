"""Snapshots of the pool that the policies decide on. Frozen facts; nothing here acts."""

from __future__ import annotations

import math
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
    has_successor: bool = False
    """A restart is preparing its next worker."""
    n_leaving: int = 0
    """Processes of it that were replaced and have not been reaped."""
    trimmable_bytes: int = 0
    """Of its cost: what its prefix cache may hold, and could give up while it is idle."""
    trimming_bytes: int = 0
    """Of its cost: what its worker has been told to give up and has not confirmed."""
    trimmed_bytes: int = 0
    """What its prefix cache has given up, beside its cost: it grows back when there is room."""
    ready_at: float = 0.0
    """When its turn began."""
    last_load: float = 0.0
    """When it was LOADING last; `now` while it is."""
    batch_end: int = 0
    """Highest id of the waiters that had queued when its turn began: these are served in this turn."""
    n_draining: int = 0
    """Of `n_leaving`, those that still work on requests: for as long as these take."""
    n_brief: int = 0
    """Of `in_flight`, those that take no place in the batch (tokenizing)."""
    max_in_flight: int | None = None
    """None: as the pool has it."""

    @property
    def idle(self) -> bool:
        # A replaced process may still work on requests, and a stop of the model would end them.
        restarting = self.has_successor or self.n_leaving > 0
        busy = self.in_flight > 0 or self.queued > 0 or restarting
        return self.state is ModelState.READY and not busy

    @property
    def held_bytes(self) -> int:
        """What all its processes take of the budget."""
        return self.cost_bytes * (self.has_worker + self.has_successor + self.n_leaving)

    @property
    def leaving_bytes(self) -> int:
        """What will be free without anything being done, and soon."""
        stopping = self.has_worker and self.state is ModelState.STOPPING
        return self.cost_bytes * (stopping + self.n_leaving - self.n_draining)


@dataclass(frozen=True, slots=True)
class WaiterView:
    id: int
    model: str
    holds_lease: bool = True
    """False for an explicit load: it takes no place in the batch."""
    since: float = 0.0
    is_brief: bool = False


@dataclass(frozen=True, slots=True)
class PoolView:
    now: float
    memory_limit_bytes: int
    max_models: int
    """0: no limit of number."""
    max_in_flight: int
    """Leases per model, of those that take a place in its batch, where the model has no limit of its own."""
    models: tuple[ModelView, ...]
    waiters: tuple[WaiterView, ...]
    """In the order of their arrival."""
    queue_per_model: int = 128
    """Waiters that may go on waiting."""
    queue_total: int = 512
    max_wait_s: float = math.inf
    """For a place. The model's own load does not count: it is judged by its progress."""
    swap_after_s: float = -1.0
    """Who waits for room for so long gets a busy model's, whose turn has lasted as long. Negative: never."""

    @property
    def free_bytes(self) -> int:
        return self.memory_limit_bytes - sum(m.held_bytes for m in self.models)

    def model(self, name: str) -> ModelView:
        return next(m for m in self.models if m.name == name)
