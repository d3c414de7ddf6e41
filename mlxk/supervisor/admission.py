"""Policy: who may go on, which models to load and to evict, who is refused. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from mlxk.config.units import format_size
from mlxk.supervisor import eviction
from mlxk.supervisor.eviction import Fits, MakeRoom, NeverFits, RoomIsComing, Trim, WaitForRoom
from mlxk.supervisor.states import ModelState
from mlxk.supervisor.views import ModelView, PoolView, WaiterView
from mlxk.workers.protocol import Fault, FaultCode

RETRY_AFTER_S = 10.0
MAX_BRIEF = 16
"""Leases per model for work that takes no place in its batch: it need not wait for a long answer's end."""


_WAITED_FOR = (ModelState.READY, ModelState.BACKOFF, ModelState.STOPPING)
"""In these states it is others that a model's waiters wait for, as `max_wait_s` limits."""


@dataclass(frozen=True, slots=True)
class Grant:
    """This waiter gets a lease on its model's worker."""

    waiter: int


@dataclass(frozen=True, slots=True)
class StartLoad:
    model: str


@dataclass(frozen=True, slots=True)
class StopIdle:
    """Evict an idle model. Who waits for it goes on waiting."""

    model: str
    room_for: str = field(default="", compare=False)
    """The model that is to be loaded in its place."""


@dataclass(frozen=True, slots=True)
class Refuse:
    waiter: int
    fault: Fault


Decision = Grant | StartLoad | StopIdle | Trim | Refuse


def decide(view: PoolView) -> list[Decision]:
    """Decisions for all waiters, in the order of their arrival.

    1. A READY model takes its waiters while it has leases left, and until it is closed (5).
    2. Who cannot go on at once waits, while the queue has a place; else it is refused.
    3. A LOADING, STOPPING or BACKOFF model lets its waiters wait (a load that gets no further is ended:
       `failures.stuck_load`).
    4. A FAILED model refuses, with its reason.
    5. An ABSENT model is loaded if there is room; else caches are trimmed and idle models evicted; else its
       waiters wait, and no later waiter's load may take the room that comes free. After `swap_after_s` busy
       models that hold that room are closed to those who came later: they finish, and are idle.
    6. Who has waited for others for `max_wait_s` is refused, and told who holds what.
    """
    return list(_Round(view).decisions())


class _Round:
    """One pass over the waiters. Each sees the models as the decisions before it leave them."""

    def __init__(self, view: PoolView) -> None:
        self._view = view
        self._models = {m.name: m for m in view.models}
        self._queue = _Queue(view.queue_per_model, view.queue_total)
        self._unserved = {waiter.id: waiter for waiter in view.waiters}
        self._room_is_claimed = False
        self._closed: tuple[str, ...] = ()

    def decisions(self) -> Iterator[Decision]:
        for waiter in self._view.waiters:
            model = self._models[waiter.model]
            if self._goes_on(waiter, model):
                takes = {"in_flight": model.in_flight + waiter.holds_lease}
                self._set(model, n_brief=model.n_brief + waiter.is_brief, **takes)
                del self._unserved[waiter.id]
                yield Grant(waiter.id)
            elif model.state is ModelState.FAILED:
                yield Refuse(waiter.id, Fault(FaultCode.MODEL_FAILED, model.fault_text))
            elif not self._queue.take_place(model.name):
                yield Refuse(waiter.id, _queue_full(model.name))
            elif model.state is ModelState.ABSENT:
                yield from self._find_room(waiter, model)
            elif model.state in _WAITED_FOR and self._overdue(waiter, model):
                yield Refuse(waiter.id, self._too_late(model))

    def _goes_on(self, waiter: WaiterView, model: ModelView) -> bool:
        if model.state is not ModelState.READY:
            return False
        if waiter.is_brief:
            has_place = model.n_brief < MAX_BRIEF
        else:
            limit = self._view.max_in_flight if model.max_in_flight is None else model.max_in_flight
            has_place = model.in_flight - model.n_brief < limit
        return (has_place and model.name not in self._closed) or not waiter.holds_lease

    def _find_room(self, waiter: WaiterView, model: ModelView) -> Iterator[Decision]:
        if self._room_is_claimed:
            if self._overdue(waiter, model):
                yield Refuse(waiter.id, self._no_room(model))
            return
        current = replace(self._view, models=tuple(self._models.values()))
        match eviction.make_room(current, model.cost_bytes, self._closable(waiter)):
            case Fits():
                self._set(model, state=ModelState.LOADING, has_worker=True)
                yield StartLoad(model.name)
            case MakeRoom(trims, victims):
                self._room_is_claimed = True
                for trim in trims:
                    self._begin_trim(trim)
                    yield trim
                for name in victims:
                    self._set(self._models[name], state=ModelState.STOPPING)
                    yield StopIdle(name, room_for=model.name)
            case NeverFits(reason):
                text = f"The model {model.name!r} cannot be loaded: {reason}."
                yield Refuse(waiter.id, Fault(FaultCode.INSUFFICIENT_MEMORY, text))
            case RoomIsComing():
                # What is being stopped may still drain, as long as a restart lets it.
                drains = any(m.state is ModelState.STOPPING and m.in_flight for m in self._models.values())
                if drains and self._overdue(waiter, model):
                    yield Refuse(waiter.id, self._no_room(model))
                else:
                    self._room_is_claimed = True
            case WaitForRoom(closed):
                if self._overdue(waiter, model):
                    yield Refuse(waiter.id, self._no_room(model))
                else:
                    self._room_is_claimed, self._closed = True, closed

    def _set(self, model: ModelView, **changes: object) -> None:
        self._models[model.name] = replace(model, **changes)  # type: ignore[arg-type]

    def _begin_trim(self, trim: Trim) -> None:
        model = self._models[trim.model]
        self._set(
            model,
            trimmable_bytes=model.trimmable_bytes - trim.release_bytes,
            trimming_bytes=model.trimming_bytes + trim.release_bytes,
        )

    def _closable(self, waiter: WaiterView) -> list[ModelView]:
        """Busy models that have had their turn, if this waiter has waited long enough to end it.

        A turn lasts for `swap_after_s`, and until those are served who had queued when it began: so models
        that alternate do not swap with every request.
        """
        swap_after_s = self._view.swap_after_s
        if swap_after_s < 0 or self._view.now - waiter.since < swap_after_s:
            return []
        owed = {
            other.model
            for other in self._unserved.values()
            if other.holds_lease and other.id <= self._models[other.model].batch_end
        }
        return [
            m
            for m in self._models.values()
            if m.state is ModelState.READY
            and not (m.idle or m.pinned or m.has_successor or m.name in owed)
            and self._view.now - m.ready_at >= swap_after_s
        ]

    def _overdue(self, waiter: WaiterView, model: ModelView) -> bool:
        return self._view.now - max(waiter.since, model.last_load) >= self._view.max_wait_s

    def _too_late(self, model: ModelView) -> Fault:
        if model.state is ModelState.BACKOFF:
            text = f"The model {model.name!r} has failed and is not tried again yet: {model.fault_text}"
            return Fault(FaultCode.MODEL_FAILED, text, retryable=True, retry_after_s=RETRY_AFTER_S)
        if model.state is ModelState.STOPPING:
            text = (
                f"The model {model.name!r} is being stopped, and its process has not ended within "
                f"{self._view.max_wait_s:g} s: it works on {model.in_flight} requests."
            )
            return Fault(FaultCode.DEADLINE_EXCEEDED, text, retryable=True, retry_after_s=RETRY_AFTER_S)
        text = (
            f"The model {model.name!r} had no place for the request within {self._view.max_wait_s:g} s: "
            f"it works on {model.in_flight} others."
        )
        return Fault(FaultCode.DEADLINE_EXCEEDED, text, retryable=True, retry_after_s=RETRY_AFTER_S)

    def _no_room(self, model: ModelView) -> Fault:
        limits = f"the limit of all models together is {format_size(self._view.memory_limit_bytes)}"
        if self._view.max_models:
            limits += f" and {self._view.max_models} at once"
        text = (
            f"The model {model.name!r} needs about {format_size(model.cost_bytes)}, and no room came free "
            f"within {self._view.max_wait_s:g} s: {limits}. "
            f"It is held by {eviction.describe_holders(self._view.models)}. "
            "Try again, stop one of them (mlxk stop NAME), or raise --max-memory or --max-models."
        )
        return Fault(FaultCode.INSUFFICIENT_MEMORY, text, retryable=True, retry_after_s=RETRY_AFTER_S)


class _Queue:
    """Places for those who wait, counted within one decision. First come, first kept."""

    def __init__(self, per_model: int, total: int) -> None:
        self._per_model = per_model
        self._left = total
        self._waiting: Counter[str] = Counter()

    def take_place(self, model: str) -> bool:
        if self._left <= 0 or self._waiting[model] >= self._per_model:
            return False
        self._left -= 1
        self._waiting[model] += 1
        return True


def _queue_full(model: str) -> Fault:
    text = f"Too many requests wait for {model!r}. Try again in a moment."
    return Fault(FaultCode.QUEUE_FULL, text, retryable=True, retry_after_s=1)
