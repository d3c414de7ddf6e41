"""One sequence at a time, for models whose KV caches cannot be merged into a batch (llama4's chunked ones).

Same interface as `mlx_adapter.Batch`. A step is one prefill chunk or one token, so new requests are taken and
aborts are honoured as quickly as in a batch; only the sequences wait for each other.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlxk.workers.kv_caches import new_cache
from mlxk.workers.mlx_adapter import BatchProgress, BatchToken, LogitsProcessor, Sampler


@dataclass(slots=True)
class SerialSequence:
    uid: int
    segments: deque[list[int]]
    """The prompt that is still to be computed; the last token is always a segment of its own."""
    total: int
    cache: list[Any]
    tokens: list[int]
    """Exactly those in the cache."""
    max_tokens: int
    sampler: Sampler
    processors: list[LogitsProcessor]
    stop_ids: frozenset[int]
    generated: int = 0
    pending: mx.array | None = field(default=None)
    """The next token, sampled and not yet in the cache."""
    pending_logprobs: mx.array | None = field(default=None)
    """Those that it was picked from."""


class SerialBatch:
    """First come, first served; `next` is what `Batch.step` is for a batch of one."""

    def __init__(self, model: Any, *, prefill_chunk: int) -> None:
        self._model = model
        self._prefill_chunk = prefill_chunk
        self._queue: deque[SerialSequence] = deque()
        self._uids = 0

    def insert(
        self,
        segments: list[list[int]],
        *,
        cache: list[Any] | None,
        cached_tokens: list[int],
        max_tokens: int,
        sampler: Sampler,
        processors: list[LogitsProcessor],
        stop_ids: frozenset[int],
    ) -> int:
        parts = [list(segment) for segment in segments if segment]
        if not parts:
            raise ValueError("the prompt is empty")
        last = parts[-1].pop()
        parts = [part for part in parts if part]
        self._uids += 1
        # A model writes into these caches: a stored prefix must be copied first.
        own = new_cache(self._model) if cache is None else copy.deepcopy(cache)
        self._queue.append(
            SerialSequence(
                self._uids,
                deque([*parts, [last]]),
                sum(map(len, parts)) + 1,
                own,
                list(cached_tokens),
                max_tokens,
                sampler,
                processors,
                stop_ids,
            )
        )
        return self._uids

    def step(self) -> tuple[list[BatchToken], list[BatchProgress]]:
        if not self._queue:
            return [], []
        sequence = self._queue[0]
        if len(sequence.segments) > 1:
            return [], [self._prefill(sequence)]
        if sequence.segments:
            self._forward(sequence, mx.array(sequence.segments.popleft()))
        return [self._decode(sequence)], []

    def extract(self, uid: int) -> tuple[list[Any], list[int]] | None:
        found = self._find(uid)
        return None if found is None else (copy.deepcopy(found.cache), list(found.tokens))

    def remove(self, uid: int) -> tuple[list[Any], list[int]] | None:
        found = self._find(uid)
        if found is None:
            return None
        self._queue.remove(found)
        return (found.cache, found.tokens) if found.tokens else None

    def discard(self, uid: int) -> None:
        self.remove(uid)

    def close(self) -> None:
        self._queue.clear()

    def _find(self, uid: int) -> SerialSequence | None:
        return next((sequence for sequence in self._queue if sequence.uid == uid), None)

    def _prefill(self, sequence: SerialSequence) -> BatchProgress:
        segment = sequence.segments[0]
        chunk, rest = segment[: self._prefill_chunk], segment[self._prefill_chunk :]
        self._model(mx.array(chunk)[None], cache=sequence.cache)
        mx.eval([layer.state for layer in sequence.cache])
        sequence.tokens.extend(chunk)
        if rest:
            sequence.segments[0] = rest
        else:
            sequence.segments.popleft()
        left = sum(map(len, sequence.segments))
        return BatchProgress(sequence.uid, sequence.total - left, sequence.total, not rest)

    def _forward(self, sequence: SerialSequence, inputs: mx.array) -> None:
        """Feed one token; the next one, sampled, is then pending."""
        logits = self._model(inputs[None], cache=sequence.cache)[:, -1, :]
        sequence.tokens.append(int(inputs.item()))
        for processor in sequence.processors:
            logits = processor(mx.array(sequence.tokens), logits)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        sequence.pending = sequence.sampler(logprobs)
        sequence.pending_logprobs = logprobs[0]
        mx.async_eval(sequence.pending, sequence.pending_logprobs)

    def _decode(self, sequence: SerialSequence) -> BatchToken:
        """Hand out the pending token, fed to the model, as mlx_lm's batch does."""
        assert sequence.pending is not None
        assert sequence.pending_logprobs is not None
        token, logprobs = int(sequence.pending.item()), sequence.pending_logprobs
        sequence.generated += 1
        finish = "length" if sequence.generated >= sequence.max_tokens else None
        if token in sequence.stop_ids:
            finish = "stop"
        self._forward(sequence, sequence.pending)
        if finish is None:
            return BatchToken(sequence.uid, token, logprobs, None, None, None)
        self._queue.popleft()
        return BatchToken(sequence.uid, token, logprobs, finish, sequence.cache, sequence.tokens)
