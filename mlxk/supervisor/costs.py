"""What a model is expected to take of the machine's memory."""

from __future__ import annotations

OVERHEAD_BYTES = 160 * 1024 * 1024
"""Interpreter, libraries and MLX's own buffers of one worker."""
ACTIVATION_SHARE = 0.1
"""Working memory of a step, as a part of the weights."""
MIN_CACHE_BYTES = 64 * 1024 * 1024
MAX_CACHE_BYTES = 1024 * 1024 * 1024


def cache_budget_bytes(configured: int | None, limit_bytes: int) -> int:
    """A worker's prefix cache: the configured size, or a sixteenth of what all models may take."""
    if configured is not None:
        return configured
    return max(MIN_CACHE_BYTES, min(MAX_CACHE_BYTES, limit_bytes // 16))


def model_cost_bytes(weight_bytes: int, cache_bytes: int) -> int:
    return int(weight_bytes * (1 + ACTIVATION_SHARE)) + cache_bytes + OVERHEAD_BYTES
