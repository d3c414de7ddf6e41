"""Policy: what a load would do now, without doing it. Pure; the same `make_room` that a real one asks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from mlxk.supervisor.costs import Estimate
from mlxk.supervisor.eviction import (
    LINGER_S,
    Fits,
    MakeRoom,
    NeverFits,
    RoomIsComing,
    WaitForRoom,
    make_room,
)
from mlxk.supervisor.states import ModelState
from mlxk.supervisor.views import ModelView, PoolView


class Verdict(StrEnum):
    LOADED = "loaded"
    LOADING = "loading"
    FITS = "fits"
    MAKES_ROOM = "makes_room"
    """After trims and evictions of idle models."""
    WAITS = "waits"
    """For models that are busy or on their way out."""
    NEVER_FITS = "never_fits"


@dataclass(frozen=True, slots=True)
class LoadPlan:
    name: str
    verdict: Verdict
    estimate: Estimate
    free_bytes: int
    limit_bytes: int
    trim: tuple[tuple[str, int], ...] = ()
    """Models and how much of their caches."""
    evict: tuple[tuple[str, int], ...] = ()
    """Models and what they hold."""
    wait_for: tuple[tuple[str, int], ...] = ()
    """Models that hold the room, and how much."""
    reason: str | None = None
    """Why it never fits."""
    limited_by: str | None = None
    """What there is too little of: "memory" or "max_models" (there would be memory enough)."""
    max_models: int = 0

    def as_data(self) -> dict[str, Any]:
        """For `mlxk load --dry-run --json`."""
        expected = self.estimate
        return {
            "name": self.name,
            "verdict": self.verdict.value,
            "fits": self.verdict is not Verdict.NEVER_FITS,
            "need_bytes": expected.cost_bytes,
            "need_source": "measured" if expected.measured else "estimated",
            "free_bytes": max(0, self.free_bytes),
            "memory_limit_bytes": self.limit_bytes,
            "trim": [{"name": name, "bytes": n_bytes} for name, n_bytes in self.trim],
            "evict": [{"name": name, "bytes": n_bytes} for name, n_bytes in self.evict],
            "wait_for": [{"name": name, "bytes": n_bytes} for name, n_bytes in self.wait_for],
            "load_s": 0.0 if self.verdict is Verdict.LOADED else round(expected.load_s, 2),
            "load_s_source": "measured" if expected.load_measured else "estimated",
            "reason": self.reason,
            "limited_by": self.limited_by,
            "max_models": self.max_models,
        }


def plan_load(view: PoolView, name: str, expected: Estimate, present: ModelView | None) -> LoadPlan:
    """`present`: the model itself, where it has a process."""

    def plan(verdict: Verdict, **facts: Any) -> LoadPlan:
        scarce = None
        if verdict in (Verdict.MAKES_ROOM, Verdict.WAITS, Verdict.NEVER_FITS):
            scarce = "max_models" if expected.cost_bytes <= view.free_bytes else "memory"
        facts |= {"limited_by": scarce, "max_models": view.max_models}
        return LoadPlan(name, verdict, expected, view.free_bytes, view.memory_limit_bytes, **facts)

    if present is not None and present.state in (ModelState.READY, ModelState.LOADING):
        return plan(Verdict.LOADED if present.state is ModelState.READY else Verdict.LOADING)
    calm = replace(view, now=view.now + LINGER_S)
    match make_room(calm, expected.cost_bytes):
        case Fits():
            return plan(Verdict.FITS)
        case MakeRoom(trims, victims):
            return plan(
                Verdict.MAKES_ROOM,
                trim=tuple((trim.model, trim.release_bytes) for trim in trims),
                evict=tuple((victim, view.model(victim).held_bytes) for victim in victims),
            )
        case RoomIsComing():
            going = [m for m in view.models if m.leaving_bytes or m.trimming_bytes]
            held = tuple((m.name, m.leaving_bytes + m.trimming_bytes) for m in going)
            return plan(Verdict.WAITS, wait_for=held)
        case WaitForRoom():
            holders = [m for m in view.models if m.held_bytes and not (m.idle or m.pinned)]
            return plan(Verdict.WAITS, wait_for=tuple((m.name, m.held_bytes) for m in holders))
        case NeverFits(reason):
            return plan(Verdict.NEVER_FITS, reason=reason)
