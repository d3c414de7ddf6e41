"""How much memory there is and how much a process holds; what a model is expected to cost."""

from __future__ import annotations

import os

import psutil
import pytest

from mlxk.supervisor.costs import cache_budget_bytes, model_cost_bytes
from mlxk.supervisor.memory import default_limit_bytes, process_bytes

GB = 1 << 30


def test_the_default_limit_leaves_room_for_the_rest_of_the_machine() -> None:
    assert 0.5 < default_limit_bytes() / psutil.virtual_memory().total < 0.9


def test_a_process_holds_memory_and_a_dead_one_none() -> None:
    assert process_bytes(os.getpid()) > 1_000_000
    assert process_bytes(2**22 + 1) == 0


def test_a_configured_cache_is_taken_as_it_is() -> None:
    assert cache_budget_bytes(5, 100 * GB) == 5


def test_the_cache_grows_with_the_machine_within_bounds() -> None:
    assert cache_budget_bytes(None, 1) < cache_budget_bytes(None, 8 * GB) < cache_budget_bytes(None, 10**15)
    assert cache_budget_bytes(None, 10**15) == GB


def test_a_model_costs_more_than_its_weights() -> None:
    assert model_cost_bytes(4 * GB, GB) > 5 * GB


def test_a_process_that_cannot_be_asked_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files: the pool's task asks at every step, and must not die of it."""

    def fail(pid: int) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("mlxk.supervisor.memory.psutil.Process", fail)
    assert process_bytes(os.getpid()) == 0
