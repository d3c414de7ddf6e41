"""Every use of mlx_lm's less public parts, in one place.

mlx_lm promises only load, convert, generate, stream_generate and batch_generate; the rest has moved
between releases (docs/decisions/0003-mlx-lm-adapter.md). `tests/unit/workers/test_mlx_lm_signatures.py`
fails when one of these moves. All functions here are called by the engine thread.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.generate import BatchGenerator, StopSequences, TextStateMachine, make_text_state_machine
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    can_trim_prompt_cache,
    make_prompt_cache,
    trim_prompt_cache,
)
from mlx_lm.utils import load_model, load_tokenizer

EVAL_CHUNK_BYTES = 256 * 1024 * 1024
"""Weights are read in pieces of this size, so that a load shows progress and can be ended."""

Sampler = Callable[[mx.array], mx.array]
LogitsProcessor = Callable[[mx.array, mx.array], mx.array]


# ---------------------------------------------------------------------------- load


@dataclass(frozen=True, slots=True)
class LoadedModel:
    model: Any
    tokenizer: Any
    """mlx_lm's TokenizerWrapper."""
    config: dict[str, Any]
    weight_bytes: int


def read_model(path: str, *, trust_remote_code: bool, progress: Callable[[int, int], None]) -> LoadedModel:
    """Read a model folder. Raises what mlx_lm raises (FileNotFoundError, ValueError, …)."""
    folder = Path(path)
    model, config = load_model(folder, lazy=True, trust_remote_code=trust_remote_code)
    arrays = [array for _, array in tree_flatten(model.parameters())]
    total = sum(array.nbytes for array in arrays)
    done, pending, pending_bytes = 0, [], 0
    progress(0, total)
    for array in arrays:
        pending.append(array)
        pending_bytes += array.nbytes
        if pending_bytes >= EVAL_CHUNK_BYTES:
            mx.eval(pending)
            done, pending, pending_bytes = done + pending_bytes, [], 0
            progress(done, total)
    mx.eval(pending)
    tokenizer = load_tokenizer(
        folder,
        {"trust_remote_code": True} if trust_remote_code else None,
        eos_token_ids=config.get("eos_token_id"),
    )
    progress(total, total)
    return LoadedModel(model, tokenizer, config, total)


def limit_memory(memory_bytes: int | None) -> None:
    """This worker's share of the machine, as MLX's limits.

    Called after BatchGenerator was made: its constructor sets the process's wired limit to the whole
    machine's recommended maximum, which several workers cannot all have; and again when the share changes.
    """
    if memory_bytes is None:
        return
    mx.set_memory_limit(memory_bytes)
    mx.set_cache_limit(memory_bytes // 4)
    recommended = working_set_bytes()
    if recommended is not None:
        mx.synchronize()  # the wired limit must not change under an evaluation that is under way
        mx.set_wired_limit(min(memory_bytes, recommended))


def working_set_bytes() -> int | None:
    """What Metal recommends for all processes of this machine together; None without Metal."""
    if not mx.metal.is_available():
        return None
    return int(mx.device_info()["max_recommended_working_set_size"])


def is_batchable(model: Any) -> bool:
    """All of the model's caches can be merged into a batch (ChunkedKVCache and others cannot)."""
    return all(hasattr(cache, "merge") for cache in make_prompt_cache(model))


def knows_padding(model: Any) -> bool:
    """Prompts of different lengths may be prefilled together.

    A state-space layer must look where each row ends (`ArraysCache.lengths`), or the padding of the shorter
    prompts goes into their state. Several of mlx_lm's do not look: mamba, jamba, rwkv7, recurrent_gemma, …
    """
    if not any(isinstance(layer, ArraysCache) for layer in _leaves(make_prompt_cache(model))):
        return True
    return any("lengths" in _source(type(module).__module__) for module in model.modules())


def _source(module_name: str) -> str:
    try:
        return inspect.getsource(sys.modules[module_name])
    except (KeyError, OSError, TypeError):  # a model's own code may come without its source
        return ""


# ----------------------------------------------------------------------- KV caches


def new_cache(model: Any) -> list[Any]:
    """Empty KV caches, one for each layer, of the kinds that the model asks for."""
    return list(make_prompt_cache(model))


class KVCacheOps:
    """`prefix_cache.CacheOps` for mlx_lm's cache objects."""

    def is_trimmable(self, cache: list[Any]) -> bool:
        # ChunkedKVCache says that it can be trimmed, but it forgets its front while it grows.
        chunked = any(isinstance(layer, ChunkedKVCache) for layer in _leaves(cache))
        return not chunked and bool(can_trim_prompt_cache(cache))

    def trimmed(self, cache: list[Any], drop_tokens: int) -> list[Any]:
        copied = [_shallow_copy(layer) for layer in cache]
        trim_prompt_cache(copied, drop_tokens)
        return copied

    def nbytes(self, cache: list[Any]) -> int:
        return sum(layer.nbytes for layer in cache)


def _shallow_copy(layer: Any) -> Any:
    """A cache object of its own over the same arrays. Trimming moves offsets and writes to no array."""
    copied = copy.copy(layer)
    if isinstance(layer, CacheList):
        copied.caches = type(layer.caches)(_shallow_copy(inner) for inner in layer.caches)
    return copied


def detach(cache: list[Any]) -> list[Any]:
    """Evaluate an extracted cache, so that it no longer pins the whole batch's buffers."""
    for layer in cache:
        _own_arrays(layer)
    mx.eval([layer.state for layer in cache])
    return cache


def _own_arrays(layer: Any) -> None:
    """Replace slices by copies where mlx_lm's extract leaves slices (ArraysCache): a slice is a view."""
    if isinstance(layer, CacheList):
        for inner in layer.caches:
            _own_arrays(inner)
    elif isinstance(getattr(layer, "cache", None), list):
        layer.cache = [None if a is None else mx.add(a, mx.zeros((), a.dtype)) for a in layer.cache]


def has_untrimmable_cache(model: Any) -> bool:
    """Some layers' caches cannot be cut back (state-space, chunked), or not once full (rotating)."""
    return any(
        "max_size" in vars(layer) or isinstance(layer, ChunkedKVCache) or not layer.is_trimmable()
        for layer in _leaves(make_prompt_cache(model))
    )


def _leaves(cache: Iterable[Any]) -> Iterable[Any]:
    for layer in cache:
        if isinstance(layer, CacheList):
            yield from _leaves(layer.caches)
        else:
            yield layer


# --------------------------------------------------------------------------- batch


@dataclass(frozen=True, slots=True)
class BatchToken:
    uid: int
    token: int
    logprobs: mx.array
    """(vocabulary,) after processors and before temperature, normalized, computed; in the model's type."""
    finish: str | None
    """None, "stop" (`token` is one of the stop ids) or "length"."""
    cache: list[Any] | None
    tokens: list[int] | None
    """With `finish`: the KV cache and the tokens it holds."""


@dataclass(frozen=True, slots=True)
class BatchProgress:
    uid: int
    done: int
    total: int
    at_boundary: bool
    """A segment of the prompt has just been completed and more are to come."""


class Batch:
    """mlx_lm's continuous batching, narrowed to what the engine uses."""

    def __init__(
        self, model: Any, *, max_sequences: int, prefill_chunk: int, busy_prefill_chunk: int
    ) -> None:
        self._generator = BatchGenerator(
            model,
            completion_batch_size=max_sequences,
            prefill_batch_size=min(8, max_sequences) if knows_padding(model) else 1,
            prefill_step_size=prefill_chunk,
        )
        self._prefill_chunk = prefill_chunk
        self._busy_prefill_chunk = busy_prefill_chunk
        self._stops: dict[frozenset[int], StopSequences] = {}

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
        """Add a sequence. `segments` hold the prompt without `cached_tokens`; at least one token in all.

        The prefill pauses at the end of each segment, where `extract` gives a cache of exactly so far.
        """
        (uid,) = self._generator.insert_segments(
            segments=[segments],
            max_tokens=[max_tokens],
            caches=[cache],
            all_tokens=[cached_tokens],
            samplers=[sampler],
            logits_processors=[processors],
            stop_sequences=[self._stop_sequences(stop_ids)],
        )
        return int(uid)

    def step(self) -> tuple[list[BatchToken], list[BatchProgress]]:
        """One decode step for all, then at most one prefill chunk.

        While something decodes the chunk is small: a long prompt must not stall the others.
        """
        generator = self._generator
        decoding = len(generator._generation_batch) > 0
        generator.prefill_step_size = self._busy_prefill_chunk if decoding else self._prefill_chunk
        prompts, tokens = generator.next()
        return (
            [
                BatchToken(r.uid, r.token, r.logprobs, r.finish_reason, r.prompt_cache, r.all_tokens)
                for r in tokens
            ],
            [_batch_progress(r) for r in prompts],
        )

    def extract(self, uid: int) -> tuple[list[Any], list[int]] | None:
        """A running sequence's cache so far and the tokens it holds."""
        found = self._generator.extract_cache([uid]).get(uid)
        return None if found is None else (found[0], list(found[1]))

    def remove(self, uid: int) -> tuple[list[Any], list[int]] | None:
        """Take a sequence out, with what it has computed; None if that is nothing."""
        found = self._generator.remove([uid], return_prompt_caches=True).get(uid)
        if found is None or not found[1] or all(layer.empty() for layer in found[0]):
            return None
        return found[0], list(found[1])

    def discard(self, uid: int) -> None:
        """Take a sequence out and forget what it has computed."""
        self._generator.remove([uid])

    def close(self) -> None:
        self._generator.close()

    def _stop_sequences(self, stop_ids: frozenset[int]) -> StopSequences:
        """Shared by all requests with the same ids: the automaton is built once."""
        found = self._stops.get(stop_ids)
        if found is None:
            if len(self._stops) > 32:
                self._stops.clear()
            found = self._stops[stop_ids] = StopSequences([(token,) for token in sorted(stop_ids)])
        return found


def _batch_progress(response: Any) -> BatchProgress:
    done, total = response.progress
    return BatchProgress(response.uid, done, total, response.end_of_segment and not response.end_of_prompt)


# ---------------------------------------------------------------------------- text


class MarkerMachine:
    """mlx_lm's state machine of a tokenizer's thinking and tool markers. Without stop strings: it deletes
    those that are not aligned with tokens and generates on."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: what of a TokenizerWrapper tells its markers."""
        self._machine = make_text_state_machine(tokenizer)

    def state(self, name: str) -> Any:
        return self._machine.make_state(name)

    def split(self, state: Any, text: str) -> tuple[Any, list[tuple[str, str]]]:
        """The state after `text`, and its parts with the name of the state that each is in."""
        state, parts = TextStateMachine.split(state, text)
        return state, [(name or "normal", part) for name, part in parts]

    def flush(self, state: Any) -> tuple[Any, str, str]:
        """The state after the end, the text that was held back, and the name of the state that it is in."""
        state, rest, name = TextStateMachine.flush(state)
        return state, rest, name or "normal"


def state_name(state: Any) -> str:
    return str(state[0])


def holds_text(state: Any) -> bool:
    return bool(state[3])
