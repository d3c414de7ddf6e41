"""`mlxk load --dry-run` for people."""

from __future__ import annotations

from typing import Any

import pytest

from mlxk.cli.load import describe_plan

PLAN: dict[str, Any] = {
    "name": "m",
    "verdict": "fits",
    "fits": True,
    "need_bytes": 5_000_000_000,
    "need_source": "measured",
    "free_bytes": 8_000_000_000,
    "memory_limit_bytes": 12_000_000_000,
    "trim": [],
    "evict": [],
    "wait_for": [],
    "load_s": 4.2,
    "load_s_source": "estimated",
    "reason": None,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["fits", "5.0 GB (measured)", "8.0 GB of 12.0 GB", "4.2 s (estimated)"]),
        ({"verdict": "loaded"}, ["already loaded"]),
        (
            {
                "verdict": "makes_room",
                "evict": [{"name": "b", "bytes": 10**9}],
                "limited_by": "max_models",
                "max_models": 1,
            },
            ["evict b (1.0 GB)", "no more than 1 may be loaded at once (--max-models)"],
        ),
        ({"verdict": "loading"}, ["is being loaded"]),
        (
            {
                "verdict": "makes_room",
                "trim": [{"name": "a", "bytes": 10**9}],
                "evict": [{"name": "b", "bytes": 2 * 10**9}],
            },
            ["trim a (1.0 GB)", "evict b (2.0 GB)"],
        ),
        ({"verdict": "waits", "wait_for": [{"name": "c", "bytes": 3 * 10**9}]}, ["wait for c (3.0 GB)"]),
        ({"verdict": "never_fits", "reason": "it is too big"}, ["does not fit", "it is too big"]),
    ],
)
def test_a_plan_is_told_in_a_sentence(changes: dict[str, Any], words: list[str]) -> None:
    text = describe_plan({**PLAN, **changes})
    assert [word for word in words if word not in text] == []
