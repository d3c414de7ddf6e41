"""How the next token is picked. Requests that sample alike share one sampler object, so that the batch
samples in one call; a seeded request draws from numbers of its own (docs/decisions/0018-sampling.md)."""

from __future__ import annotations

import hashlib
import logging
import math
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
    make_repetition_penalty,
)

from mlxk.workers.mlx_adapter import LogitsProcessor, Sampler
from mlxk.workers.protocol import FaultCode, Sampling, fault

log = logging.getLogger("mlxk.worker")

MAX_SHARED = 256
LIMITS = {
    "temperature": (0.0, 1000.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
}
"""Far beyond what anybody asks for, and what half-precision logits still bear without becoming infinite."""
MAX_BIAS = 10_000.0
LEAST_TEMPERATURE = 1e-5
"""Below it sampling is greedy: the best token has all the probability, and 1 / temperature overflows."""
LEAST_TOP_P = 1e-6
"""Below it only the best token is left: in float32 the threshold may round to nothing."""
_ALL_TOKENS = 2**31 - 1
"""mlx_lm's penalties look back this far: over the whole sequence."""


def check_sampling(sampling: Sampling) -> None:
    """Raises FaultError for numbers on which mlx_lm's functions would raise inside the shared step, or make
    logits that are no numbers."""
    for name, (low, high) in LIMITS.items():
        value = getattr(sampling, name)
        if value is not None and not low <= value <= high:  # NaN is never inside
            message = f"{name} must be from {low:g} to {high:g}, not {value}."
            raise fault(FaultCode.INVALID_REQUEST, message, param=name)
    for value in (sampling.logit_bias or {}).values():
        if not -MAX_BIAS <= value <= MAX_BIAS:
            message = f"logit_bias must be from {-MAX_BIAS:g} to {MAX_BIAS:g}, not {value}."
            raise fault(FaultCode.INVALID_REQUEST, message, param="logit_bias")


class Samplers:
    """The samplers of one model."""

    def __init__(self, vocab_size: int, defaults: dict[str, Any]) -> None:
        """`defaults` is the model's generation_config; OpenAI's apply where it is silent."""
        self._vocab_size = vocab_size
        self._defaults = _sane(defaults)
        self._greedy_default = defaults.get("do_sample") is False
        """Greedy in generation_config.json, whatever temperature stands beside it."""
        self._shared: dict[tuple[float, float, float, int], Sampler] = {}

    def sampler(self, sampling: Sampling, drawn: int = 0) -> Sampler:
        """`drawn` tokens have been sampled already: a seeded sampler goes on from there."""
        settings = self._settings(sampling)
        if settings[0] < LEAST_TEMPERATURE or settings[1] < LEAST_TOP_P:
            return greedy_sampler  # type: ignore[no-any-return]
        if sampling.seed is not None:
            return _without_jit(_seeded_sampler(sampling.seed, drawn, settings))
        if settings not in self._shared:
            if len(self._shared) >= MAX_SHARED:
                self._shared.clear()
            self._shared[settings] = _without_jit(lambda logprobs: _draw(logprobs, settings, None))
        return self._shared[settings]

    def processors(self, sampling: Sampling, n_prompt: int) -> list[LogitsProcessor]:
        """Biases and penalties; empty for most requests, which keeps the batch on its fast path.

        `n_prompt` tokens of the sequence are its prompt: only what follows counts for the presence and
        frequency penalties, as at OpenAI. The repetition penalty counts both, as in transformers.
        """
        processors: list[LogitsProcessor] = make_logits_processors(logit_bias=sampling.logit_bias or None)
        repetition = sampling.repetition_penalty
        if repetition is None:
            repetition = self._default("repetition_penalty", 1.0)
        if repetition != 1.0:
            processors.append(make_repetition_penalty(repetition, _ALL_TOKENS))
        presence, frequency = sampling.presence_penalty or 0.0, sampling.frequency_penalty or 0.0
        if presence or frequency:
            processors.append(_additive_penalties(presence, frequency, n_prompt))
        return processors

    def _settings(self, sampling: Sampling) -> tuple[float, float, float, int]:
        temperature = sampling.temperature
        if temperature is None:
            temperature = 0.0 if self._greedy_default else self._default("temperature", 1.0)
        top_p = self._default("top_p", 1.0) if sampling.top_p is None else sampling.top_p
        min_p = self._default("min_p", 0.0) if sampling.min_p is None else sampling.min_p
        top_k = int(self._default("top_k", 0.0)) if sampling.top_k is None else sampling.top_k
        # A top_k of the whole vocabulary or more keeps everything; mlx_lm's function would raise.
        return temperature, top_p, min_p, top_k if 0 < top_k < self._vocab_size else 0

    def _default(self, name: str, otherwise: float) -> float:
        return self._defaults.get(name, otherwise)


def _sane(defaults: dict[str, Any]) -> dict[str, float]:
    """The numbers of a generation_config that can be used: a file of somebody else's may hold anything, and
    what is out of range would fail every request."""
    kept: dict[str, float] = {}
    for name in ("temperature", "top_p", "min_p", "repetition_penalty", "top_k"):
        value = defaults.get(name)
        if value is None:
            continue
        low, high = LIMITS.get(name, (-1.0, math.inf))
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            kept[name] = float(min(value, _ALL_TOKENS))
        else:
            log.warning("generation_config.json says %s=%r, which is out of range: ignored", name, value)
    return kept


def _draw(logprobs: mx.array, settings: tuple[float, float, float, int], key: mx.array | None) -> mx.array:
    """One token a row. The filters come before the temperature, as in mlx_lm's own sampler; the temperature
    is applied in float32, where half a precision would overflow or make neighbours equal."""
    temperature, top_p, min_p, top_k = settings
    if top_p < 1:
        logprobs = apply_top_p(logprobs, top_p)
    if min_p > 0:
        logprobs = apply_min_p(logprobs, min_p)
    if top_k > 0:
        logprobs = apply_top_k(logprobs, top_k)
    return mx.random.categorical(logprobs.astype(mx.float32) * (1 / temperature), key=key)


def _seeded_sampler(
    seed: int, drawn: int, settings: tuple[float, float, float, int]
) -> Callable[[mx.array], mx.array]:
    """The n-th token is drawn with numbers that depend on the seed and on n alone: not on who else is in the
    batch, and not on whether the batch had to be built anew in between."""

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal drawn
        digest = hashlib.blake2b(b"%d:%d" % (seed, drawn), digest_size=8).digest()
        drawn += 1
        words = [int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")]
        return _draw(logprobs, settings, mx.array(words, mx.uint32))

    return sample


def _additive_penalties(presence: float, frequency: float, n_prompt: int) -> LogitsProcessor:
    """OpenAI's: logit - count * frequency - (count > 0) * presence, over the generated tokens.

    mlx_lm's own subtract once for every occurrence in the logits' precision: a small penalty on a bfloat16
    logit would round away, however often the token occurred.
    """

    def penalize(tokens: mx.array, logits: mx.array) -> mx.array:
        generated = tokens[n_prompt:]
        if generated.size == 0:
            return logits
        counts = mx.zeros((logits.shape[-1],), mx.float32).at[generated].add(1.0)
        penalty = counts * frequency + (counts > 0) * presence
        # Back in their own type, or the whole batch's logits would change theirs beside this row.
        return (logits.astype(mx.float32) - penalty).astype(logits.dtype)

    return penalize


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
