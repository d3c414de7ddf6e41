"""What a model is expected to take of the machine's memory, and how long it should take to load."""

from __future__ import annotations

from dataclasses import dataclass

OVERHEAD_BYTES = 160 * 1024 * 1024
"""Interpreter, libraries and MLX's own buffers of one worker."""
ACTIVATION_SHARE = 0.1
"""Working memory of a step, as a part of the weights."""
MIN_CACHE_BYTES = 64 * 1024 * 1024
MAX_CACHE_BYTES = 1024 * 1024 * 1024
START_S = 2.0
"""Spawn and imports of a worker."""
LOAD_BYTES_PER_S = 1e9
"""Of weights, from a disk that is neither cached nor slow."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the next load of a model is expected to cost."""

    cost_bytes: int
    """Its prefix cache's budget included."""
    cache_bytes: int
    measured: bool
    """From an earlier run; else from the size of the weights."""
    load_s: float
    load_measured: bool


def cache_budget_bytes(configured: int | None, limit_bytes: int) -> int:
    """A worker's prefix cache: the configured size, or a sixteenth of what all models may take."""
    if configured is not None:
        return configured
    return max(MIN_CACHE_BYTES, min(MAX_CACHE_BYTES, limit_bytes // 16))


def model_cost_bytes(weight_bytes: int, cache_bytes: int) -> int:
    return int(weight_bytes * (1 + ACTIVATION_SHARE)) + cache_bytes + OVERHEAD_BYTES


def estimate(
    weight_bytes: int, cache_bytes: int, working_bytes: int | None, load_s: float | None
) -> Estimate:
    """`working_bytes` and `load_s` are what was measured before, None if nothing was.

    The cache's whole budget is counted also where it was measured: the last run may not have filled it. No
    model takes less than its weights: a lower peak was measured while the system had swapped it out.
    """
    measured = working_bytes is not None
    if working_bytes is not None:
        cost_bytes = max(working_bytes, weight_bytes) + cache_bytes
    else:
        cost_bytes = model_cost_bytes(weight_bytes, cache_bytes)
    guess_s = START_S + weight_bytes / LOAD_BYTES_PER_S
    return Estimate(
        cost_bytes, cache_bytes, measured, guess_s if load_s is None else load_s, load_s is not None
    )
