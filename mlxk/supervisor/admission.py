"""Policy: who may go on, which models to load and to evict, who is refused. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from mlxk.supervisor.eviction import Evict, Fits, NeverFits, make_room
from mlxk.supervisor.states import ModelState
from mlxk.supervisor.views import PoolView
from mlxk.workers.protocol import Fault, FaultCode


@dataclass(frozen=True, slots=True)
class Grant:
    """This waiter gets a lease on its model's worker."""

    waiter: int


@dataclass(frozen=True, slots=True)
class StartLoad:
    model: str


@dataclass(frozen=True, slots=True)
class StopIdle:
    """Evict an idle model."""

    model: str


@dataclass(frozen=True, slots=True)
class Refuse:
    waiter: int
    fault: Fault


Decision = Grant | StartLoad | StopIdle | Refuse


def decide(view: PoolView) -> list[Decision]:
    """Decisions for all waiters, in the order of their arrival.

    1. A READY model takes its waiters while it has leases left.
    2. Who cannot go on at once waits, while the queue has a place; else it is refused.
    3. A LOADING, STOPPING or BACKOFF model lets its waiters wait.
    4. A FAILED model refuses, with its reason.
    5. An ABSENT model is loaded if there is room; else idle models are evicted; else its waiters wait,
       and no later waiter's load may take the room that comes free; else it is refused.
    """
    models = {m.name: m for m in view.models}
    queue = _Queue(view.queue_per_model, view.queue_total)
    decisions: list[Decision] = []
    room_is_claimed = False
    for waiter in view.waiters:
        model = models[waiter.model]
        if model.state is ModelState.READY and (
            not waiter.holds_lease or model.in_flight < view.max_in_flight
        ):
            models[model.name] = replace(model, in_flight=model.in_flight + waiter.holds_lease)
            decisions.append(Grant(waiter.id))
            continue
        if model.state is ModelState.FAILED:
            decisions.append(Refuse(waiter.id, Fault(FaultCode.MODEL_FAILED, model.fault_text)))
            continue
        if not queue.take_place(model.name):
            decisions.append(Refuse(waiter.id, _queue_full(model.name)))
            continue
        if model.state is not ModelState.ABSENT or room_is_claimed:
            continue
        current = replace(view, models=tuple(models.values()))
        match make_room(current, model.cost_bytes):
            case Fits():
                models[model.name] = replace(model, state=ModelState.LOADING, has_worker=True)
                decisions.append(StartLoad(model.name))
            case Evict(victims):
                for name in victims:
                    models[name] = replace(models[name], state=ModelState.STOPPING)
                    decisions.append(StopIdle(name))
                room_is_claimed = True
            case NeverFits(reason):
                text = f"The model {model.name!r} cannot be loaded: {reason}."
                decisions.append(Refuse(waiter.id, Fault(FaultCode.INSUFFICIENT_MEMORY, text)))
            case _:
                room_is_claimed = True
    return decisions


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
