"""How the next token is picked. Requests that sample alike share one sampler object, so that the batch
samples in one call; a seeded request has a key of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import (
    apply_min_p,
    apply_top_k,
    apply_top_p,
    greedy_sampler,
    make_logits_processors,
    make_sampler,
)

from mlxk.workers.mlx_adapter import LogitsProcessor, Sampler
from mlxk.workers.protocol import FaultCode, Sampling, fault

MAX_SHARED = 256
LIMITS = {
    "temperature": (0.0, 1000.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.0, 1000.0),
}


def check_sampling(sampling: Sampling) -> None:
    """Raises FaultError for numbers on which mlx_lm's functions would raise inside the shared step."""
    for name, (low, high) in LIMITS.items():
        value = getattr(sampling, name)
        if value is not None and not low <= value <= high:  # NaN is never inside
            message = f"{name} must be from {low:g} to {high:g}, not {value}."
            raise fault(FaultCode.INVALID_REQUEST, message, param=name)


class Samplers:
    """The samplers of one model."""

    def __init__(self, vocab_size: int, defaults: dict[str, Any]) -> None:
        """`defaults` is the model's generation_config; OpenAI's apply where it is silent."""
        self._vocab_size = vocab_size
        self._defaults = defaults
        self._shared: dict[tuple[float, float, float, int], Sampler] = {}

    def sampler(self, sampling: Sampling, drawn: int = 0) -> Sampler:
        """`drawn` tokens have been sampled already: a seeded sampler goes on from there."""
        temperature, top_p, min_p, top_k = self._settings(sampling)
        if temperature == 0 or top_p == 0:
            return greedy_sampler  # type: ignore[no-any-return]
        if sampling.seed is not None:
            return _without_jit(_seeded_sampler(sampling.seed, drawn, temperature, top_p, min_p, top_k))
        key = (temperature, top_p, min_p, top_k)
        if key not in self._shared:
            if len(self._shared) >= MAX_SHARED:
                self._shared.clear()
            sampler = make_sampler(temp=temperature, top_p=top_p, min_p=min_p, top_k=top_k)
            self._shared[key] = _without_jit(sampler)
        return self._shared[key]

    def processors(self, sampling: Sampling) -> list[LogitsProcessor]:
        """Penalties and biases; empty for most requests, which keeps the batch on its fast path."""
        penalty = sampling.repetition_penalty
        if penalty is None:
            penalty = self._default("repetition_penalty", 1.0)
        return make_logits_processors(  # type: ignore[no-any-return]
            logit_bias=sampling.logit_bias or None,
            repetition_penalty=penalty if penalty != 1.0 else None,
            presence_penalty=sampling.presence_penalty or None,
            frequency_penalty=sampling.frequency_penalty or None,
        )

    def _settings(self, sampling: Sampling) -> tuple[float, float, float, int]:
        temperature = sampling.temperature
        if temperature is None:
            # do_sample: false means greedy in generation_config.json, whatever temperature stands beside it.
            greedy = self._defaults.get("do_sample") is False
            temperature = 0.0 if greedy else self._default("temperature", 1.0)
        top_p = self._default("top_p", 1.0) if sampling.top_p is None else sampling.top_p
        min_p = self._default("min_p", 0.0) if sampling.min_p is None else sampling.min_p
        top_k = int(self._default("top_k", 0.0)) if sampling.top_k is None else sampling.top_k
        # A top_k of the whole vocabulary or more keeps everything; mlx_lm's function would raise.
        return temperature, top_p, min_p, top_k if 0 < top_k < self._vocab_size else 0

    def _default(self, name: str, otherwise: float) -> float:
        value = self._defaults.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


def _seeded_sampler(
    seed: int, drawn: int, temperature: float, top_p: float, min_p: float, top_k: int
) -> Callable[[mx.array], mx.array]:
    key = mx.random.key(seed & 0xFFFF_FFFF_FFFF_FFFF)
    for _ in range(drawn):
        key, _ = mx.random.split(key)

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal key
        if 0 < top_p < 1:
            logprobs = apply_top_p(logprobs, top_p)
        if min_p > 0:
            logprobs = apply_min_p(logprobs, min_p)
        if top_k > 0:
            logprobs = apply_top_k(logprobs, top_k)
        key, now = mx.random.split(key)
        return mx.random.categorical(logprobs * (1 / temperature), key=now)

    return sample


def _without_jit(sampler: Sampler) -> Sampler:
    """On a CPU `mx.compile` calls the machine's C++ compiler: 3 to 12 s inside of the shared step, in which
    nobody's stream moves, at the first use of each kernel; and a row of logits is no faster for it."""
    if mx.default_device() != mx.Device(mx.cpu) or "MLX_DISABLE_COMPILE" in os.environ:
        return sampler

    def sample(logprobs: mx.array) -> mx.array:
        mx.disable_compile()
        try:
            return sampler(logprobs)
        finally:
            mx.enable_compile()

    return sample
