"""mlx_lm's less public parts: loading, the batch, markers in text. Its KV caches are in `kv_caches.py`.

mlx_lm promises only load, convert, generate, stream_generate and batch_generate; the rest has moved
between releases (docs/decisions/0003-mlx-lm-adapter.md). `tests/unit/workers/test_mlx_lm_signatures.py`
fails when one of these moves. All functions here are called by the engine thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.generate import StopSequences, TextStateMachine, make_text_state_machine
from mlx_lm.utils import load_model, load_tokenizer

from mlxk.workers.batch_steps import StepGenerator, computes_ahead
from mlxk.workers.kv_caches import has_untrimmable_cache, knows_padding

EVAL_CHUNK_BYTES = 256 * 1024 * 1024
"""Weights are read in pieces of this size, so that a load shows progress and can be ended."""

BUSY_PREFILL_CHUNKS = 4
"""While something decodes, a step prefills at most so many chunks' tokens of all prompts together."""

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


# --------------------------------------------------------------------------- batch


@dataclass(frozen=True, slots=True)
class BatchToken:
    uid: int
    token: int
    logprobs: mx.array
    """(vocabulary,) after processors and before temperature, normalized; in the model's type. Reading it
    waits for no step."""
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
        self,
        model: Any,
        *,
        max_sequences: int,
        prefill_chunk: int,
        busy_prefill_chunk: int,
        ahead: bool | None = None,
    ) -> None:
        """`ahead`: whether a step begins before the tokens of the last are handed out; None: as suits the
        device."""
        self._generator = StepGenerator(
            model,
            completion_batch_size=max_sequences,
            prefill_batch_size=min(8, max_sequences) if knows_padding(model) else 1,
            prefill_chunk=prefill_chunk,
            busy_prefill_chunk=busy_prefill_chunk,
            busy_prefill_tokens=BUSY_PREFILL_CHUNKS * busy_prefill_chunk,
            pauses_before_decoding=has_untrimmable_cache(model),
            ahead=computes_ahead() if ahead is None else ahead,
        )
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
        """At most one prefill chunk, then one decode step for all: also for the prompts that it completes.
        (On a CPU the first tokens of those come alone, and the step for all is the next call's.)

        While something decodes the chunk is small: a long prompt must not stall the others.
        """
        prompts, tokens = self._generator.next()
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

    def leaves_whole(self, state: Any, text: str) -> bool:
        """No marker is under way and none begins in `text`: `split` would return it as it is."""
        name, node, states, held = state
        root = states[name][0]
        return not held and node is root and root.keys().isdisjoint(text)

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
