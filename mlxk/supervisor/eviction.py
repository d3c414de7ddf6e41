"""Policy: how room is made for a model, and which models have been idle for too long. Pure.

In this order: trim the prefix caches of idle models, evict idle models, wait. A busy or pinned model is
never a victim; a busy one may be told to take no new requests (`WaitForRoom.closed`) and is idle then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlxk.config.units import format_size
from mlxk.supervisor.states import ModelState
from mlxk.supervisor.views import ModelView, PoolView

LINGER_S = 0.1
"""Clients of this machine that go on asking do so within milliseconds."""


@dataclass(frozen=True, slots=True)
class Fits:
    """There is room now."""


@dataclass(frozen=True, slots=True)
class Trim:
    """An idle model's prefix cache gives up a part of what it may hold."""

    model: str
    release_bytes: int


@dataclass(frozen=True, slots=True)
class MakeRoom:
    """Room is there when these caches are trimmed and these idle models' processes are gone."""

    trim: tuple[Trim, ...] = ()
    evict: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoomIsComing:
    """What is on its way out already is enough, or idle models will be in a moment."""


@dataclass(frozen=True, slots=True)
class WaitForRoom:
    """Room will come when busy models let go."""

    closed: tuple[str, ...] = ()
    """These have had their turn: no new requests, so that they become idle."""


@dataclass(frozen=True, slots=True)
class NeverFits:
    reason: str


Room = Fits | MakeRoom | RoomIsComing | WaitForRoom | NeverFits


def make_room(view: PoolView, need_bytes: int, closable: Sequence[ModelView] = ()) -> Room:
    """How a new worker of `need_bytes` can be had. `closable`: busy models that may lose their turn."""
    if reason := _hindrance(view, need_bytes):
        return NeverFits(reason)
    missing_bytes = need_bytes - view.free_bytes
    free_places = view.max_models - sum(m.has_worker for m in view.models) if view.max_models else 1
    if missing_bytes <= 0 and free_places > 0:
        return Fits()
    missing_bytes -= sum(m.leaving_bytes + m.trimming_bytes for m in view.models)
    free_places += sum(m.has_worker and m.state is ModelState.STOPPING for m in view.models)
    if missing_bytes <= 0 and free_places > 0:
        return RoomIsComing()
    idle = sorted((m for m in view.models if m.idle), key=lambda m: m.last_used)
    victims = [m for m in idle if not m.pinned]
    plan = _cheapest(missing_bytes, free_places, victims, idle)
    if plan is not None:
        lingering = any(_lingers(view.model(name), view) for name in plan.evict)
        return RoomIsComing() if lingering else plan
    in_turn = sorted(closable, key=lambda m: m.ready_at)
    plan = _cheapest(missing_bytes, free_places, [*victims, *in_turn], idle)
    if plan is None:
        return WaitForRoom()
    if any(view.model(name).in_flight for name in plan.evict):
        return WaitForRoom(closed=plan.evict)  # the idle ones too: a new request would begin all over again
    return plan


def _lingers(model: ModelView, view: PoolView) -> bool:
    """Idle only since its last answer, and its turn is young: clients that ask again at once must not see
    their model swapped out between two requests."""
    turn_is_young = view.swap_after_s < 0 or view.now - model.ready_at < view.swap_after_s
    return turn_is_young and view.now - model.last_used < LINGER_S


def _cheapest(
    missing_bytes: int, free_places: int, victims: Sequence[ModelView], idle: Sequence[ModelView]
) -> MakeRoom | None:
    """The fewest victims, first come first; and from the idle that stay no more cache than needed."""
    for count in range(len(victims) + 1):
        evicted = victims[:count]
        left_bytes = missing_bytes - sum(m.cost_bytes - m.trimming_bytes for m in evicted)
        staying = [m for m in idle if m not in evicted]
        if free_places + count > 0 and left_bytes <= sum(m.trimmable_bytes for m in staying):
            return MakeRoom(_trims(staying, left_bytes), tuple(m.name for m in evicted))
    return None


def _trims(idle: Sequence[ModelView], missing_bytes: int) -> tuple[Trim, ...]:
    chosen: list[Trim] = []
    for model in idle:
        released = min(model.trimmable_bytes, missing_bytes)
        if released > 0:
            chosen.append(Trim(model.name, released))
            missing_bytes -= released
    return tuple(chosen)


def _hindrance(view: PoolView, need_bytes: int) -> str | None:
    """Why it can never fit. Looked at first: evicting others for it would be for nothing."""
    needs = f"it needs about {format_size(need_bytes)}"
    limit = f"the limit of all models together is {format_size(view.memory_limit_bytes)} (--max-memory)"
    if need_bytes > view.memory_limit_bytes:
        return f"{needs}, {limit}"
    pinned = [m for m in view.models if m.pinned and m.has_worker and m.state is not ModelState.STOPPING]
    unfree_bytes = sum(m.cost_bytes - m.trimmable_bytes for m in pinned)
    if need_bytes > view.memory_limit_bytes - unfree_bytes:
        return f"{needs}, {limit}, and pinned models hold the room: {describe_holders(pinned)}"
    if 0 < view.max_models <= len(pinned):
        return f"pinned models hold all {view.max_models} places (--max-models): {describe_holders(pinned)}"
    return None


def describe_holders(models: Sequence[ModelView]) -> str:
    """ "a 8.1 GB (busy), b 2.0 GB (pinned)": who holds what, the largest first."""
    held = sorted((m for m in models if m.held_bytes), key=lambda m: -m.held_bytes)
    return ", ".join(f"{m.name} {format_size(m.held_bytes)} ({_what_it_does(m)})" for m in held)


def _what_it_does(model: ModelView) -> str:
    if model.state is not ModelState.READY:
        return model.state.value
    doing = f"busy with {model.in_flight}" if model.in_flight else "waited for" if model.queued else "idle"
    return f"pinned, {doing}" if model.pinned else doing


def balance(view: PoolView) -> tuple[Trim, ...]:
    """Between loads. Caches that were trimmed grow back into free room (a negative release), those used last
    first; and where the models hold more than was expected of them, idle ones' caches give way."""
    if view.free_bytes < 0:
        coming = sum(m.leaving_bytes + m.trimming_bytes for m in view.models)
        idle = sorted((m for m in view.models if m.idle), key=lambda m: m.last_used)
        return _trims(idle, -view.free_bytes - coming)
    if any(view.model(w.model).state is ModelState.ABSENT for w in view.waiters):
        return ()  # somebody needs that room
    free_bytes, grown = view.free_bytes, []
    for model in sorted(view.models, key=lambda m: -m.last_used):
        more = min(model.trimmed_bytes, free_bytes)
        if more > 0 and model.state is ModelState.READY and not model.trimming_bytes:
            grown.append(Trim(model.name, -more))
            free_bytes -= more
    return tuple(grown)


def expired(view: PoolView) -> tuple[str, ...]:
    """Idle models whose keep-alive has run out."""
    return tuple(
        m.name
        for m in view.models
        if m.idle and not m.pinned and m.keep_alive_s >= 0 and view.now - m.last_used >= m.keep_alive_s
    )
