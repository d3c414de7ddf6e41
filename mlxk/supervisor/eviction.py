"""Policy: which idle models make room, and which have been idle for too long. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlxk.config.units import format_size
from mlxk.supervisor.states import ModelState
from mlxk.supervisor.views import ModelView, PoolView


@dataclass(frozen=True, slots=True)
class Fits:
    """There is room now."""


@dataclass(frozen=True, slots=True)
class Evict:
    """Stop these idle models; room is there when their processes are gone."""

    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WaitForRoom:
    """Room will come when a busy or stopping model lets go."""


@dataclass(frozen=True, slots=True)
class NeverFits:
    reason: str


def make_room(view: PoolView, need_bytes: int) -> Fits | Evict | WaitForRoom | NeverFits:
    """How a new worker of `need_bytes` can be had. A busy or pinned model is never a victim."""
    if need_bytes > view.memory_limit_bytes:
        return NeverFits(
            f"it needs about {format_size(need_bytes)}, the limit of all models together is "
            f"{format_size(view.memory_limit_bytes)} (--max-memory)"
        )
    present = [m for m in view.models if m.has_worker]
    leaving = [m for m in present if m.state is ModelState.STOPPING]
    # Looked at first: evicting the others for a model that fits beside no pinned one would be for nothing.
    pinned = [m for m in present if m.pinned and m not in leaving]
    if need_bytes > view.memory_limit_bytes - _cost(pinned) or 0 < view.max_models <= len(pinned):
        holders = ", ".join(f"{m.name} ({format_size(m.cost_bytes)})" for m in pinned)
        return NeverFits(
            f"it needs about {format_size(need_bytes)} and pinned models hold the room: {holders}"
        )
    free_bytes = view.memory_limit_bytes - _cost(present)
    free_places = view.max_models - len(present) if view.max_models else 1
    if free_bytes >= need_bytes and free_places > 0:
        return Fits()
    missing_bytes = need_bytes - free_bytes - _cost(leaving)
    victims = _victims(view, missing_bytes, free_places + len(leaving))
    return Evict(tuple(m.name for m in victims)) if victims else WaitForRoom()


def _cost(models: Sequence[ModelView]) -> int:
    return sum(m.cost_bytes for m in models)


def _victims(view: PoolView, missing_bytes: int, free_places: int) -> list[ModelView] | None:
    """Idle models, least recently used first, until enough would be free; None if it never would."""
    chosen: list[ModelView] = []
    for model in sorted((m for m in view.models if m.idle and not m.pinned), key=lambda m: m.last_used):
        if missing_bytes <= 0 and free_places > 0:
            break
        chosen.append(model)
        missing_bytes -= model.cost_bytes
        free_places += 1
    return chosen if missing_bytes <= 0 and free_places > 0 else None


def expired(view: PoolView) -> tuple[str, ...]:
    """Idle models whose keep-alive has run out."""
    return tuple(
        m.name
        for m in view.models
        if m.idle and not m.pinned and m.keep_alive_s >= 0 and view.now - m.last_used >= m.keep_alive_s
    )
