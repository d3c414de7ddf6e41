"""What is counted while the server works: for `GET /metrics` and the access log; nothing is decided by it.

All counts belong to the front and only grow: a worker's own begin anew with its process, and what it has not
told yet dies with it. Written in the event loop's thread only.

This is on the way of every token: plain lists and integers, and one clock reading for all tokens of a step.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mlxk.supervisor.events import Event, EventKind
from mlxk.workers.protocol import Started, Usage

# Upper bounds in seconds, for local models: from a toy to one that just fits, from idle to a full queue.
LOAD_BOUNDS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
QUEUE_BOUNDS_S = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""A load is a part of this wait."""
TTFT_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
"""Up to a prompt of a hundred thousand tokens, after a load."""
INTER_TOKEN_BOUNDS_S = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05),
    *(0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5),
)
"""Finest where people notice: 20 to 200 tokens a second."""


class Histogram:
    """Counts per bucket (not cumulative; the last has no upper bound), and the sum of all values."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def copy(self) -> Histogram:
        copied = Histogram(self.bounds)
        copied.counts, copied.sum = self.counts.copy(), self.sum
        return copied


@dataclass(slots=True)
class ModelMeter:
    """Of one model, since this server began."""

    load_s: Histogram = field(default_factory=lambda: Histogram(LOAD_BOUNDS_S))
    queue_s: Histogram = field(default_factory=lambda: Histogram(QUEUE_BOUNDS_S))
    ttft_s: Histogram = field(default_factory=lambda: Histogram(TTFT_BOUNDS_S))
    inter_token_s: Histogram = field(default_factory=lambda: Histogram(INTER_TOKEN_BOUNDS_S))
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of `prompt_tokens`, those that a prefix cache had."""
    generated_tokens: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    cache_trims: int = 0
    evictions: Counter[str] = field(default_factory=Counter)
    """By reason."""
    finishes: Counter[str] = field(default_factory=Counter)
    """Of generations: by `FinishReason`, `FaultCode` or "client_gone"."""

    def copy(self) -> ModelMeter:
        """For another thread."""
        return replace(
            self,
            load_s=self.load_s.copy(),
            queue_s=self.queue_s.copy(),
            ttft_s=self.ttft_s.copy(),
            inter_token_s=self.inter_token_s.copy(),
            evictions=self.evictions.copy(),
            finishes=self.finishes.copy(),
        )


class GenerationMeter:
    """Of one `Generate`, on its way through the front."""

    __slots__ = (
        "_inter_token_s",
        "_model",
        "began",
        "cached_tokens",
        "first_at",
        "first_count",
        "granted_at",
        "last_at",
        "prompt_tokens",
        "tokens",
    )

    def __init__(self, model: ModelMeter) -> None:
        self._model = model
        self._inter_token_s = model.inter_token_s
        self.began = time.monotonic()
        self.granted_at: float | None = None
        """When its worker got it."""
        self.prompt_tokens: int | None = None
        """None until the worker has said it."""
        self.cached_tokens = 0
        self.tokens = 0
        """Generated so far."""
        self.first_at = self.last_at = 0.0
        """When the first and the last of them came; 0.0 before."""
        self.first_count = 0
        """How many came at first: more than one where their text was held back."""

    def on_granted(self) -> None:
        self.granted_at = time.monotonic()
        self._model.queue_s.observe(self.granted_at - self.began)

    def on_started(self, started: Started) -> None:
        self.prompt_tokens, self.cached_tokens = started.prompt_tokens, started.cached_tokens
        model = self._model
        model.prompt_tokens += started.prompt_tokens
        model.cached_tokens += started.cached_tokens
        if started.cached_tokens:
            model.cache_hits += 1
        else:
            model.cache_misses += 1

    def on_tokens(self, count: int, now: float) -> None:
        """The hot path. `count` is more than 1 where text was held back: these share the time."""
        if count == 1 and self.tokens:
            gap = now - self.last_at
            histogram = self._inter_token_s
            histogram.counts[bisect_left(histogram.bounds, gap)] += 1
            histogram.sum += gap
        elif count <= 0:
            return
        elif self.tokens:
            self._inter_token_s.observe((now - self.last_at) / count, count)
        else:
            self.first_at, self.first_count = now, count
            self._model.ttft_s.observe(now - self.began)
        self.last_at = now
        self.tokens += count
        self._model.generated_tokens += count

    def on_finished(self, usage: Usage) -> None:
        """The worker's own sum: a last token without text (the end of the sequence) came in no delta."""
        missing = usage.completion_tokens - self.tokens
        if missing > 0:
            if not self.first_at:  # no token had any text for the client: the end is when the first was known
                self.first_at = self.last_at = time.monotonic()
                self._model.ttft_s.observe(self.first_at - self.began)
            self.tokens += missing
            self._model.generated_tokens += missing

    def on_end(self, finish: str) -> None:
        self._model.finishes[finish] += 1

    @property
    def waited_s(self) -> float:
        """Until a worker got it; until now if none has."""
        return (time.monotonic() if self.granted_at is None else self.granted_at) - self.began

    @property
    def has_begun(self) -> bool:
        """A worker has its prompt in the batch."""
        return self.prompt_tokens is not None

    @property
    def usage(self) -> Usage:
        """As far as it is known, also in the middle."""
        return Usage(self.prompt_tokens or 0, self.tokens, self.cached_tokens)


class Meters:
    """Of all models that were ever asked for: canonical names only, so that no client can make them more."""

    def __init__(self) -> None:
        self.began_at = time.time()
        """In Unix time."""
        self.models: dict[str, ModelMeter] = {}

    def of(self, model: str) -> ModelMeter:
        meter = self.models.get(model)
        if meter is None:
            meter = self.models[model] = ModelMeter()
        return meter

    def on_event(self, event: Event) -> None:
        """For `EventBus.observe`."""
        match event["kind"]:
            case EventKind.LOADED:
                self.of(event["model"]).load_s.observe(event["load_s"])
            case EventKind.EVICTED:
                self.of(event["model"]).evictions[event["reason"]] += 1
            case EventKind.TRIMMED:
                self.of(event["model"]).cache_trims += 1
