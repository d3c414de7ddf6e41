"""What the pool's task keeps of each model and each waiter. Only that task writes these."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from mlxk.store.catalog import ModelRef
from mlxk.supervisor.orders import StopOrder
from mlxk.supervisor.states import ModelState
from mlxk.supervisor.views import ModelView
from mlxk.workers.protocol import Fault, Loaded


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send one request to a model's worker. Given by the pool, given back once."""

    model: str
    worker_id: str
    is_brief: bool = False


@dataclass(frozen=True, slots=True)
class StopResult:
    """What a stop of one model did."""

    name: str
    stopped: bool
    """False: it did not run."""
    freed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RestartResult:
    """What a restart of one model did."""

    name: str
    load_s: float
    freed_bytes: int = 0
    seamless: bool = False
    """The new process was ready before the old one took its last request."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A request, or an explicit load, that needs a model to be READY."""

    id: int
    model: str
    granted: asyncio.Future[Lease]
    holds_lease: bool = True
    """False for an explicit load: it only waits for READY."""
    is_brief: bool = False
    """It takes no place in the batch: tokenizing."""
    since: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class ModelRecord:
    ref: ModelRef
    cost_bytes: int
    pinned: bool = False
    default_keep_alive_s: float = -1.0
    keep_alive_s: float = -1.0
    state: ModelState = ModelState.ABSENT
    worker_id: str | None = None
    loaded: Loaded | None = None
    in_flight: int = 0
    n_brief: int = 0
    """Of `in_flight`, those that take no place in the batch."""
    last_used: float = 0.0
    loads: int = 0
    restarts: int = 0
    """Loads that followed a death or a restart; not those after a stop or an eviction."""
    comes_again: bool = False
    """The next load will be such a one."""
    deaths: tuple[float, ...] = ()
    crashes: int = 0
    """All of this server's time; for display."""
    retry_at: float = 0.0
    failure: str | None = None
    """Why the present worker is being ended, where it is for a failure."""
    last_error: str | None = None
    ready_at: float = 0.0
    unwanted_since: float | None = None
    """While LOADING: since when nobody waits for it any more."""
    successor_id: str | None = None
    """A restart's new worker, until it is ready and takes `worker_id`'s place."""
    successor_failure: Fault | None = None
    leaving: dict[str, int] = field(default_factory=dict)
    """Workers that were replaced or given up, until they are reaped, with the leases they still have."""
    restart_order: StopOrder | None = None
    """How the old worker of a restart is to end."""
    restart_waiters: list[asyncio.Future[RestartResult]] = field(default_factory=list)
    restart_loads: int = 0
    """Waiters in the room on behalf of restarts."""
    memory_before_stop: int = 0
    stop_waiters: list[asyncio.Future[StopResult]] = field(default_factory=list)
    announced: ModelState = ModelState.ABSENT
    """The state that listeners were told last."""
    cache_bytes: int = 0
    """What its prefix cache may hold by the last word to its worker; a part of `cost_bytes`."""
    trimming_bytes: int = 0
    """Still charged: its worker has not confirmed that the cache is smaller."""
    trimmed_bytes: int = 0
    """Of the cache's whole budget, what it has given up."""
    share_bytes: int = 0
    """The part of the machine that its worker was told last."""
    bare_bytes: int = 0
    """What its process held before the load."""
    peak_bytes: int = 0
    """The most that its process was seen to hold."""
    load_began: float = 0.0
    last_load: float = 0.0
    """When a load of it ended last."""
    progress_at: float = 0.0
    """When its load got further last: a process, or bytes of weights."""
    progress_bytes: int = -1
    batch_end: int = 0
    """See `ModelView`."""
    max_batch: int | None = None
    """How many requests it may work on at once. None: as the pool has it."""

    @property
    def name(self) -> str:
        return self.ref.name

    @property
    def has_died(self) -> bool:
        """Its last process failed, and nobody has loaded or stopped it since: who comes back in the morning
        wants to know."""
        return self.comes_again and self.last_error is not None

    @property
    def worker_ids(self) -> list[str]:
        """All its processes that have not been reaped."""
        present = (self.worker_id, self.successor_id, *self.leaving)
        return [worker_id for worker_id in present if worker_id is not None]

    def view(self, queued: int) -> ModelView:
        return ModelView(
            name=self.name,
            state=self.state,
            cost_bytes=self.cost_bytes,
            has_worker=self.worker_id is not None,
            has_successor=self.successor_id is not None,
            n_leaving=len(self.leaving),
            in_flight=self.in_flight,
            n_brief=self.n_brief,
            queued=queued,
            last_used=self.last_used,
            keep_alive_s=self.keep_alive_s,
            pinned=self.pinned,
            fault_text=self.last_error or "",
            trimmable_bytes=self.cache_bytes,
            trimming_bytes=self.trimming_bytes if self.state is ModelState.READY else 0,
            trimmed_bytes=self.trimmed_bytes,
            ready_at=self.ready_at,
            last_load=time.monotonic() if self.state is ModelState.LOADING else self.last_load,
            batch_end=self.batch_end,
            max_in_flight=self.max_batch,
            n_draining=sum(1 for n_leases in self.leaving.values() if n_leases > 0),
        )
