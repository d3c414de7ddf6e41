"""Snapshots for the tests of the policies, with short names and sensible defaults."""

from __future__ import annotations

from typing import Any

from mlxk.supervisor.states import ModelState
from mlxk.supervisor.views import ModelView, PoolView, WaiterView

GB = 1 << 30


def absent(name: str, cost: int = GB, **facts: Any) -> ModelView:
    return ModelView(name, ModelState.ABSENT, cost, has_worker=False, **facts)


def ready(name: str, cost: int = GB, **facts: Any) -> ModelView:
    return ModelView(name, ModelState.READY, cost, has_worker=True, **facts)


def loading(name: str, cost: int = GB, **facts: Any) -> ModelView:
    return ModelView(name, ModelState.LOADING, cost, has_worker=True, **facts)


def stopping(name: str, cost: int = GB, **facts: Any) -> ModelView:
    return ModelView(name, ModelState.STOPPING, cost, has_worker=True, **facts)


def pool_of(
    *models: ModelView,
    waiting: str = "",
    limit: int = 10 * GB,
    max_models: int = 0,
    max_in_flight: int = 2,
    **facts: Any,
) -> PoolView:
    """`waiting`: the models' names, one a waiter, in the order of arrival; ids count from 1."""
    waiters = tuple(WaiterView(number, name) for number, name in enumerate(waiting.split(), 1))
    return PoolView(
        now=facts.pop("now", 100.0),
        memory_limit_bytes=limit,
        max_models=max_models,
        max_in_flight=max_in_flight,
        models=models,
        waiters=facts.pop("waiters", waiters),
        **facts,
    )
