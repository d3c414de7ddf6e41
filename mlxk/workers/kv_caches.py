"""mlx_lm's KV caches: what can be done with one, and how they get into a batch and out with few copies.

Beside `mlx_adapter.py` the second place that uses mlx_lm's less public parts (same rules, same test). MLX's
arrays are values: whoever writes to one that somebody else holds gets a copy. So a prefix that is stored can
be handed to several requests as it is (docs/decisions/0030-few-copies-of-a-prefix.md).
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterable
from typing import Any

import mlx.core as mx
from mlx_lm.generate import PromptProcessingBatch
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    can_trim_prompt_cache,
    make_prompt_cache,
    trim_prompt_cache,
)


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
    """Have an extracted cache computed, so that it no longer pins the whole batch's buffers. Nobody waits
    for it: the copies queue up behind the step that is under way."""
    for layer in cache:
        _own_arrays(layer)
    mx.async_eval([layer.state for layer in cache])
    return cache


def _own_arrays(layer: Any) -> None:
    """Replace slices by copies where mlx_lm's extract leaves slices (ArraysCache): a slice is a view."""
    if isinstance(layer, CacheList):
        for inner in layer.caches:
            _own_arrays(inner)
    elif isinstance(getattr(layer, "cache", None), list):
        layer.cache = [None if a is None else mx.add(a, mx.zeros((), a.dtype)) for a in layer.cache]


def _leaves(cache: Iterable[Any]) -> Iterable[Any]:
    for layer in cache:
        if isinstance(layer, CacheList):
            yield from _leaves(layer.caches)
        else:
            yield layer


# --------------------------------------------------------------- what a model asks for


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


def has_untrimmable_cache(model: Any) -> bool:
    """Some layers' caches cannot be cut back (state-space, chunked), or not once full (rotating)."""
    return any(
        "max_size" in vars(layer) or isinstance(layer, ChunkedKVCache) or not layer.is_trimmable()
        for layer in _leaves(make_prompt_cache(model))
    )


# ----------------------------------------------------------------- into a batch, and on


ROWS = (
    "uids",
    "prompt_cache",
    "tokens",
    "samplers",
    "logits_processors",
    "stop_sequences",
    "max_tokens",
)
"""What a PromptProcessingBatch has one of for each row (the caches: of each layer)."""


class PromptBatch(PromptProcessingBatch):  # type: ignore[misc]  # mlx_lm has no types
    """mlx_lm's prompts in prefill, without a copy of their caches when all of them begin to decode."""

    def split(self, indices: list[int]) -> Any:
        if len(indices) < len(self):
            return super().split(indices)
        moved = copy.copy(self)
        emptied: dict[str, list[Any]] = {name: [] for name in ROWS}
        self.__dict__.update(emptied)
        return moved


def batch_of_one(layer: Any) -> Any:
    """`layer.merge([layer])` over the same arrays: the first token that it grows by copies them anyway."""
    if isinstance(layer, CacheList):
        merged = CacheList()
        merged.caches = tuple(batch_of_one(inner) for inner in layer.caches)
        return merged
    if type(layer) is not KVCache or layer.keys is None:
        return layer.merge([layer])
    batch = BatchKVCache([0])
    batch.keys, batch.values = layer.keys_and_values()
    batch.offset += layer.offset
    batch._idx = layer.offset
    return batch
