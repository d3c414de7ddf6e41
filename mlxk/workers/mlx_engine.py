"""The engine that runs models: mlx_lm's continuous batching, a prefix cache and the text pipeline."""

from __future__ import annotations

import logging
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

# transformers imports torch when it finds it: 490 MB and two seconds that no worker needs.
# A module entry of None makes it unfindable in this process, whatever the user has installed.
for _unwanted in ("torch", "tensorflow", "jax", "flax"):
    sys.modules.setdefault(_unwanted, None)  # type: ignore[arg-type]
# A worker reads local folders only; no library below may fetch anything.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import mlx.core as mx  # noqa: E402  (the environment above must be set before these imports)

from mlxk.store.builtin import builtin_path  # noqa: E402
from mlxk.workers import mlx_adapter as adapter  # noqa: E402
from mlxk.workers.constraints import Constraint, Constraints  # noqa: E402
from mlxk.workers.detokenizer import Detokenizer, SlowDetokenizer  # noqa: E402
from mlxk.workers.engine import ProgressCallback  # noqa: E402
from mlxk.workers.logprobs import TokenBytes, TracedPipeline, measure  # noqa: E402
from mlxk.workers.markers import Markers  # noqa: E402
from mlxk.workers.model_facts import context_length, generation_config, vocab_size  # noqa: E402
from mlxk.workers.pipeline import TextPipeline, TextSplitter  # noqa: E402
from mlxk.workers.prefix_cache import PrefixCache  # noqa: E402
from mlxk.workers.prompts import Prompt, PromptBuilder  # noqa: E402
from mlxk.workers.protocol import (  # noqa: E402
    CacheStats,
    Capabilities,
    Delta,
    Deltas,
    Detokenize,
    Detokenized,
    Failed,
    Fault,
    FaultCode,
    FaultError,
    Finished,
    FinishReason,
    FromWorker,
    Generate,
    Load,
    Loaded,
    Progress,
    Started,
    Tokenize,
    Tokenized,
    WorkerStats,
    fault,
)
from mlxk.workers.sampling import Samplers, check_sampling  # noqa: E402
from mlxk.workers.sequences import Sequence, ending, segments  # noqa: E402
from mlxk.workers.serial_batch import SerialBatch  # noqa: E402
from mlxk.workers.vocabulary import Vocabulary  # noqa: E402

log = logging.getLogger("mlxk.worker")

PREFILL_CHUNK = 512
BUSY_PREFILL_CHUNK = 128
STATS_EVERY_STEPS = 32
MAX_RECOVERIES = 3


Computed = tuple[list[Any], list[int]]
"""A sequence's KV cache, and the tokens that it holds."""


class MlxEngine:
    """`engine.Engine` over mlx_lm. Everything but `stats` runs on the engine thread."""

    name = "mlx"

    def __init__(self) -> None:
        self._by_uid: dict[int, Sequence] = {}
        self._by_id: dict[str, Sequence] = {}
        self._steps = 0
        self._step_began: float | None = None
        self._generated_tokens = 0
        self._prompt_tokens = 0
        self._memory = (0, 0, 0)
        self._cache_stats = CacheStats()

    # ----------------------------------------------------------------- lifecycle

    @property
    def working_set_bytes(self) -> int | None:
        return adapter.working_set_bytes()

    @property
    def idle(self) -> bool:
        return not self._by_uid

    def warm_up(self) -> None:
        """Load the built-in model once and let it go: the first load of a process also imports the parts of
        transformers that it needs and compiles their patterns, which then takes longer than the rest."""
        try:
            adapter.read_model(str(builtin_path()), trust_remote_code=False, progress=lambda *_: None)
        except Exception:  # whatever it is: the model that is asked for will tell, if it matters
            log.warning("the warm-up failed", exc_info=True)

    def load(self, spec: Load, progress: ProgressCallback) -> Loaded:
        began = time.monotonic()
        if not (Path(spec.path) / "config.json").is_file():
            raise fault(FaultCode.MODEL_LOAD_FAILED, f"There is no model at {spec.path} (no config.json).")
        found = adapter.read_model(spec.path, trust_remote_code=spec.trust_remote_code, progress=progress)
        self._model, self._tokenizer = found.model, found.tokenizer
        self._vocab_size = vocab_size(found.config, found.tokenizer)
        self._context = context_length(found.config, spec.context_length)
        self._untrimmable = adapter.has_untrimmable_cache(found.model)
        self._prefill_chunk = int(spec.options.get("prefill_chunk", PREFILL_CHUNK))
        self._busy_prefill_chunk = int(spec.options.get("busy_prefill_chunk", BUSY_PREFILL_CHUNK))
        self._max_batch = int(spec.options.get("max_batch", 64))
        self._memory_bytes = spec.memory_bytes
        self._prefixes = PrefixCache(spec.cache_bytes, adapter.KVCacheOps())
        self._batch = self._new_batch()
        self._prompts = PromptBuilder(found.tokenizer, self._vocab_size, find_boundaries=self._untrimmable)
        self._vocabulary = Vocabulary(
            found.tokenizer, self._prompts, size=self._vocab_size, context_length=self._context
        )
        self._samplers = Samplers(self._vocab_size, generation_config(Path(spec.path)))
        self._markers = Markers(found.tokenizer)
        self._tool_format = self._markers.tool_format
        self._constraints = Constraints(
            found.tokenizer, lambda initial: self._markers.splitter(initial, with_tools=True)
        )
        self._bytes = TokenBytes(found.tokenizer)
        self._fast_tokenizer = getattr(found.tokenizer, "backend_tokenizer", None)
        self._note_memory()
        return Loaded(
            context_length=self._context,
            vocab_size=self._vocab_size,
            weight_bytes=found.weight_bytes,
            load_s=time.monotonic() - began,
            capabilities=Capabilities(
                chat=True,
                tools=self._tool_format is not None,
                reasoning=self._markers.has_reasoning,
            ),
        )

    def close(self) -> None:
        """Let the GPU finish, then give the memory back."""
        if not hasattr(self, "_batch"):
            return
        mx.synchronize()
        self._batch.close()
        self._prefixes.clear()
        del self._batch, self._model
        mx.clear_cache()

    def trim_cache(self, max_bytes: int, memory_bytes: int | None = None) -> int:
        held_before = mx.get_active_memory() + mx.get_cache_memory()
        shrinks = max_bytes < self._prefixes.max_bytes
        self._prefixes.limit_to(max_bytes)
        if memory_bytes is not None:
            self._memory_bytes = memory_bytes
            adapter.limit_memory(memory_bytes)
        if shrinks:  # else it may be busy, and would only have to ask the system for its buffers again
            mx.clear_cache()
        self._note_memory()
        return max(0, int(held_before - mx.get_active_memory() - mx.get_cache_memory()))

    def stats(self) -> WorkerStats:
        """Plain attributes only: called by the I/O thread, which may make no MLX call."""
        began = self._step_began
        active, peak, cached = self._memory
        return WorkerStats(
            steps=self._steps,
            step_age_s=0.0 if began is None else time.monotonic() - began,
            in_flight=len(self._by_id),
            active_bytes=active,
            peak_bytes=peak,
            cached_bytes=cached,
            generated_tokens=self._generated_tokens,
            prompt_tokens=self._prompt_tokens,
            cache=self._cache_stats,
        )

    # ------------------------------------------------------------------ requests

    def prepare(self, request: Generate) -> Prompt:
        return self._prompts.build(request)

    def submit(self, request: Generate, prepared: Prompt | None = None) -> list[FromWorker]:
        if request.id in self._by_id:
            raise fault(FaultCode.INTERNAL, f"The request id {request.id} is in use.")
        prompt = prepared or self.prepare(request)
        max_tokens = self._max_tokens(request, len(prompt.tokens))
        self._check_sampling(request)
        constraint = self._constraints.constraint(request, prompt)
        match = self._prefixes.fetch(prompt.tokens)
        sequence = Sequence(
            request=request,
            uid=-1,
            prompt=prompt,
            tokens=list(prompt.tokens),
            cached=match.n_tokens,
            max_tokens=max_tokens,
            pipeline=self._pipeline(request, prompt, constraint),
            constraint=constraint,
            boundaries=set(prompt.boundaries) if self._untrimmable else set(),
        )
        self._insert(sequence, match.cache, match.n_tokens)
        self._prompt_tokens += len(prompt.tokens)
        self._note_memory()
        return [Started(request.id, len(prompt.tokens), match.n_tokens, max_tokens)]

    def tokenize(self, request: Tokenize) -> Tokenized:
        return self._vocabulary.tokenize(request)

    def detokenize(self, request: Detokenize) -> Detokenized:
        return self._vocabulary.detokenize(request)

    def abort(self, request_id: str) -> list[FromWorker]:
        sequence = self._by_id.get(request_id)
        if sequence is None:
            return []
        self._keep_prefix(self._take_out(sequence.uid))
        ended = self._end(sequence, FinishReason.ABORT, None)
        self._note_memory()
        return [ended]

    def step(self) -> list[FromWorker]:
        self._step_began = time.monotonic()
        try:
            try:
                tokens, progress = self._batch.step()
            except Exception as error:
                return self._recover(error)
            out: list[FromWorker] = []
            for report in progress:
                self._on_progress(report, out)
            deltas: list[Delta] = []
            for token in tokens:
                sequence = self._by_uid[token.uid]
                try:
                    self._on_token(sequence, token, deltas, out)
                except Exception as error:
                    out.append(self._fail(sequence, error))
            if deltas:
                out.insert(0, Deltas(deltas))
            return out
        finally:
            self._steps += 1
            self._step_began = None
            if self._steps % STATS_EVERY_STEPS == 0 or self.idle:
                self._note_memory()

    def _max_tokens(self, request: Generate, n_prompt: int) -> int:
        left = self._context - n_prompt
        if left < 1:
            raise fault(
                FaultCode.CONTEXT_LENGTH_EXCEEDED,
                # OpenAI's first words: clients (litellm) know by them to take a model with a longer context.
                f"This model's maximum context length is {self._context} tokens; the prompt has {n_prompt}, "
                "and a reply needs at least one more. Shorten the prompt.",
                param="messages" if request.messages is not None else "prompt",
            )
        if request.max_tokens is not None:
            return max(1, min(request.max_tokens, left))
        return max(1, min(int(self._context * request.context_share), left))

    def _check_sampling(self, request: Generate) -> None:
        """Whatever would raise inside the shared step must raise here, for this request alone."""
        check_sampling(request.sampling)
        for token in (*request.stop_token_ids, *(request.sampling.logit_bias or ())):
            if not 0 <= token < self._vocab_size:
                raise fault(
                    FaultCode.INVALID_REQUEST,
                    f"The token id {token} is outside of the vocabulary (0 to {self._vocab_size - 1}).",
                    param="stop_token_ids" if token in request.stop_token_ids else "logit_bias",
                )

    def _pipeline(self, request: Generate, prompt: Prompt, constraint: Constraint | None) -> TextPipeline:
        fast = self._fast_tokenizer
        splitter: TextSplitter | None = None
        if constraint is not None:
            splitter = constraint.splitter
        elif prompt.is_chat:
            splitter = self._markers.splitter(prompt.initial_state, with_tools=bool(request.tools))
        new = TextPipeline if request.logprobs is None else partial(TracedPipeline, token_bytes=self._bytes)
        return new(
            (
                Detokenizer(fast, None if prompt.is_chat else prompt.tokens[-1])
                if fast is not None
                else SlowDetokenizer(self._tokenizer.detokenizer)
            ),
            stops=request.stop,
            # Stop strings of the server's own must not cut what it has promised to be whole.
            hidden_stops=[] if constraint is not None and constraint.ends_reply else request.hidden_stop,
            splitter=splitter,
            tool_format=(constraint and constraint.tool_format) or self._tool_format,
            tools=request.tools,
        )

    def _insert(self, sequence: Sequence, cache: list[Any] | None, n_cached: int) -> None:
        request, constraint = sequence.request, sequence.constraint
        processors = self._samplers.processors(request.sampling, len(sequence.prompt.tokens))
        if constraint is not None:
            processors = [*processors, constraint.restart()]  # last: no bias may bring back what it forbids
        stop_ids = frozenset(request.stop_token_ids)
        if not request.ignore_eos or (constraint is not None and constraint.ends_reply):
            stop_ids |= frozenset(self._tokenizer.eos_token_ids)
        sequence.uid = self._batch.insert(
            segments(sequence.tokens, n_cached, sequence.boundaries),
            cache=cache,
            cached_tokens=sequence.tokens[:n_cached],
            max_tokens=sequence.max_tokens - sequence.generated,
            sampler=self._samplers.sampler(request.sampling, drawn=sequence.generated),
            processors=processors,
            stop_ids=stop_ids,
        )
        self._by_uid[sequence.uid] = sequence
        self._by_id[request.id] = sequence

    # ---------------------------------------------------------------------- step

    def _on_progress(self, report: adapter.BatchProgress, out: list[FromWorker]) -> None:
        sequence = self._by_uid.get(report.uid)
        if sequence is None:
            return
        if report.at_boundary and self._untrimmable and self._prefixes.max_bytes > 0:
            # This cache cannot be cut back to here later: keep it now.
            self._keep_prefix(self._copy_out(report.uid))
        if report.done < report.total and not sequence.generated:
            total = len(sequence.prompt.tokens)
            out.append(Progress(sequence.request.id, total - report.total + report.done, total))

    def _on_token(
        self, sequence: Sequence, token: adapter.BatchToken, deltas: list[Delta], out: list[FromWorker]
    ) -> None:
        if sequence.constraint is not None:
            sequence.constraint.check()
        pipeline = sequence.pipeline
        sequence.generated += 1
        sequence.unreported += 1
        sequence.recoveries = 0
        self._generated_tokens += 1
        if token.finish == "stop":
            piece = pipeline.finish(self._end_text(token.token))
        else:
            sequence.tokens.append(token.token)
            if isinstance(pipeline, TracedPipeline):
                pipeline.note(measure(token.logprobs, token.token, sequence.request.logprobs or 0))
            piece = pipeline.push(token.token)
            if token.finish == "length" or pipeline.stopped:
                piece.extend(pipeline.finish())
        only_call = bool(piece.tool_calls) and not sequence.request.parallel_tool_calls
        if only_call:
            del piece.tool_calls[1:]
        if piece:
            deltas.append(
                Delta(
                    sequence.request.id,
                    piece.content,
                    piece.reasoning,
                    piece.tool_calls,
                    sequence.unreported,
                    piece.logprobs,
                )
            )
            sequence.unreported = 0
        if token.finish is not None:
            self._keep_prefix((token.cache, token.tokens) if token.cache and token.tokens else None)
            out.append(self._end(sequence, *ending(sequence, token.token, token.finish)))
        elif pipeline.stopped:
            self._keep_prefix(self._take_out(token.uid))
            out.append(self._end(sequence, *ending(sequence, token.token, None)))
        elif only_call:
            self._keep_prefix(self._take_out(token.uid))
            out.append(self._end(sequence, FinishReason.TOOL_CALLS, None))

    def _end_text(self, token: int) -> str | None:
        """The text of an end token; None for a stop token id, which cuts the reply."""
        if token not in self._tokenizer.eos_token_ids:
            return None
        text: str = self._tokenizer.decode([token])
        return text

    def _end(self, sequence: Sequence, reason: FinishReason, matched: str | int | None) -> Finished:
        self._forget(sequence)
        return Finished(sequence.request.id, reason, sequence.usage(), matched)

    def _fail(self, sequence: Sequence, error: Exception) -> Failed:
        """Its text could not be made of its tokens: take it out of the batch, if it is still there."""
        log.error("request %s failed", sequence.request.id, exc_info=error)
        self._take_out(sequence.uid)
        self._forget(sequence)
        return _failed(sequence, error)

    def _take_out(self, uid: int) -> Computed | None:
        """Out of the batch, with what it has computed; without, where the caches cannot give it."""
        try:
            return self._batch.remove(uid)
        except Exception:
            log.exception("the prefix of a request that ended could not be taken out of the batch")
            self._batch.discard(uid)
            return None

    def _copy_out(self, uid: int) -> Computed | None:
        try:
            return self._batch.extract(uid)
        except Exception:
            log.exception("the prefix of a running request could not be copied out of the batch")
            return None

    def _forget(self, sequence: Sequence) -> None:
        self._by_uid.pop(sequence.uid, None)
        self._by_id.pop(sequence.request.id, None)

    def _keep_prefix(self, computed: Computed | None) -> None:
        """A prefix that cannot be kept costs the next request time, never this one its answer."""
        if computed is None:
            return
        try:
            cache, tokens = computed
            if self._prefixes.fits(cache):  # else the copy would only take memory that is short already
                self._prefixes.store(list(tokens), adapter.detach(cache))
            self._cache_stats = self._prefixes.stats()
        except Exception:
            log.exception("a prefix of %d tokens could not be kept", len(computed[1]))

    def _new_batch(self) -> adapter.Batch | SerialBatch:
        batch: adapter.Batch | SerialBatch
        if adapter.is_batchable(self._model):
            batch = adapter.Batch(
                self._model,
                max_sequences=self._max_batch,
                prefill_chunk=self._prefill_chunk,
                busy_prefill_chunk=self._busy_prefill_chunk,
            )
        else:
            batch = SerialBatch(self._model, prefill_chunk=self._prefill_chunk)
        adapter.limit_memory(self._memory_bytes)
        return batch

    def _note_memory(self) -> None:
        self._memory = (int(mx.get_active_memory()), int(mx.get_peak_memory()), int(mx.get_cache_memory()))
        self._cache_stats = self._prefixes.stats()

    # ------------------------------------------------------------------- recovery

    def _recover(self, error: Exception) -> list[FromWorker]:
        """A step raised: find out for which request, fail that one, and start the others again.

        The batch is in an unknown state, so it is thrown away. Each sequence first makes one step in a
        batch of its own; the ones that survive go on from the tokens they have. Their clients notice
        a pause and nothing else. What only fails in company is given up after MAX_RECOVERIES without a token.
        """
        log.error("a step failed, trying each of %d requests alone", len(self._by_uid), exc_info=error)
        survivors: list[Sequence] = []
        out: list[FromWorker] = []
        for sequence in list(self._by_uid.values()):
            self._forget(sequence)
            sequence.recoveries += 1
            failure = error if sequence.recoveries > MAX_RECOVERIES else self._probe(sequence)
            if failure is None:
                survivors.append(sequence)
            else:
                out.append(_failed(sequence, failure))
        self._batch.close()
        self._batch = self._new_batch()
        for sequence in survivors:
            self._insert(sequence, None, 0)
        return out

    def _probe(self, sequence: Sequence) -> Exception | None:
        """One decode step of this sequence alone; the exception if it cannot make one."""
        try:
            # Closed first: a generator that is dropped later would take our memory limits back with it.
            self._batch.close()
            self._batch = self._new_batch()
            self._insert(sequence, None, 0)
            while not self._batch.step()[0]:
                pass
        except Exception as failure:
            return failure
        finally:
            self._forget(sequence)
        return None


def _failed(sequence: Sequence, error: Exception) -> Failed:
    if isinstance(error, FaultError):
        return Failed(sequence.request.id, error.fault)
    message = f"The request failed in the engine: {type(error).__name__}: {error}"
    return Failed(sequence.request.id, Fault(FaultCode.ENGINE_ERROR, message))
