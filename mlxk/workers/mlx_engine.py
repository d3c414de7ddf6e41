"""The engine that runs models: mlx_lm's continuous batching, a prefix cache and the text pipeline."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

# transformers imports torch when it finds it: 490 MB and two seconds that no worker needs.
# A module entry of None makes it unfindable in this process, whatever the user has installed.
for _unwanted in ("torch", "tensorflow", "jax", "flax"):
    sys.modules.setdefault(_unwanted, None)  # type: ignore[arg-type]
# A worker reads local folders only; no library below may fetch anything.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import mlx.core as mx  # noqa: E402  (the environment above must be set before these imports)

from mlxk.store.builtin import builtin_path  # noqa: E402
from mlxk.workers import kv_caches  # noqa: E402
from mlxk.workers import mlx_adapter as adapter  # noqa: E402
from mlxk.workers.engine import ProgressCallback  # noqa: E402
from mlxk.workers.logprobs import TracedPipeline, measure  # noqa: E402
from mlxk.workers.markers import Markers  # noqa: E402
from mlxk.workers.model_facts import context_length, generation_config, vocab_size  # noqa: E402
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
    FaultCode,
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
from mlxk.workers.recovery import failed, recover  # noqa: E402
from mlxk.workers.running_batch import RunningBatch  # noqa: E402
from mlxk.workers.sampling import Samplers  # noqa: E402
from mlxk.workers.sequence_maker import SequenceMaker  # noqa: E402
from mlxk.workers.sequences import Sequence, ending  # noqa: E402
from mlxk.workers.serial_batch import SerialBatch  # noqa: E402
from mlxk.workers.shared_prefills import SharedPrefills  # noqa: E402
from mlxk.workers.vocabulary import Vocabulary  # noqa: E402

log = logging.getLogger("mlxk.worker")

PREFILL_CHUNK = 512
BUSY_PREFILL_CHUNK = 128
STATS_EVERY_STEPS = 32


class MlxEngine:
    """`engine.Engine` over mlx_lm. Everything but `stats` runs on the engine thread."""

    name = "mlx"

    def __init__(self) -> None:
        self._running = RunningBatch()
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
        return not self._running.by_uid

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
        self._context = context_length(Path(spec.path), found.config, spec.context_length)
        self._untrimmable = kv_caches.has_untrimmable_cache(found.model)
        self._prefill_chunk = int(spec.options.get("prefill_chunk", PREFILL_CHUNK))
        self._busy_prefill_chunk = int(spec.options.get("busy_prefill_chunk", BUSY_PREFILL_CHUNK))
        self._max_batch = int(spec.options.get("max_batch", 64))
        self._memory_bytes = spec.memory_bytes
        self._prefixes = PrefixCache(spec.cache_bytes, kv_caches.KVCacheOps())
        self._prompts = PromptBuilder(
            found.tokenizer,
            self._vocab_size,
            find_boundaries=self._untrimmable,
            context_length=self._context,
        )
        self._vocabulary = Vocabulary(
            found.tokenizer, self._prompts, size=self._vocab_size, context_length=self._context
        )
        markers = Markers(found.tokenizer)
        self._maker = SequenceMaker(
            found.tokenizer,
            markers,
            Samplers(self._vocab_size, generation_config(Path(spec.path))),
            vocab_size=self._vocab_size,
            context_length=self._context,
            checkpoint_distance=self._prefill_chunk if self._untrimmable else None,
        )
        self._running.open(self._new_batch, self._maker.controls, self._prefixes)
        self._shared = SharedPrefills(self._running, self._prefixes, untrimmable=self._untrimmable)
        self._note_memory()
        return Loaded(
            context_length=self._context,
            vocab_size=self._vocab_size,
            weight_bytes=found.weight_bytes,
            load_s=time.monotonic() - began,
            capabilities=Capabilities(
                chat=True,
                tools=markers.tool_format is not None,
                reasoning=markers.has_reasoning,
            ),
        )

    def close(self) -> None:
        """Let the GPU finish, then give the memory back."""
        if not self._running.is_open:  # nothing was loaded, or a load failed on its way
            return
        mx.synchronize()
        self._running.close()
        self._prefixes.clear()
        del self._model
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
            in_flight=len(self._running.by_id),
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
        if request.id in self._running.by_id:
            raise fault(FaultCode.INTERNAL, f"The request id {request.id} is in use.")
        prompt = prepared or self.prepare(request)
        sequence = self._maker.sequence(request, prompt)
        if self._shared.holds(sequence):
            return []
        started = self._start(sequence)
        self._note_memory()
        return [started]

    def _start(self, sequence: Sequence) -> Started:
        match = self._prefixes.fetch(sequence.key)
        sequence.cached = match.n_tokens
        self._running.insert(sequence, match.cache, match.n_tokens)
        n_prompt = len(sequence.prompt.tokens)
        self._prompt_tokens += n_prompt
        return Started(sequence.request.id, n_prompt, match.n_tokens, sequence.max_tokens)

    def _start_released(self) -> list[FromWorker]:
        """Those that have waited for another's prefill, and need not any more."""
        out: list[FromWorker] = []
        for sequence in self._shared.released():
            try:
                if not self._shared.holds(sequence):
                    out.append(self._start(sequence))
            except Exception as error:
                out.append(self._fail(sequence, error))
        return out

    def tokenize(self, request: Tokenize) -> Tokenized:
        return self._vocabulary.tokenize(request)

    def detokenize(self, request: Detokenize) -> Detokenized:
        return self._vocabulary.detokenize(request)

    def abort(self, request_id: str) -> list[FromWorker]:
        sequence = self._running.by_id.get(request_id)
        if sequence is None:
            return []
        self._running.dismiss(sequence)
        ended = self._end(sequence, FinishReason.ABORT, None)
        released = self._start_released()
        self._note_memory()
        return [ended, *released]

    def step(self) -> list[FromWorker]:
        self._step_began = time.monotonic()
        try:
            try:
                tokens, progress = self._running.step()
            except Exception as error:
                return self._recover(error)
            out: list[FromWorker] = []
            deltas: list[Delta] = []
            for token in tokens:
                sequence = self._running.by_uid.get(token.uid)
                if sequence is None:  # it ended and could not be taken out: the next step sees to that
                    continue
                try:
                    self._on_token(sequence, token, deltas, out)
                except Exception as error:
                    out.append(self._fail(sequence, error))
            for report in progress:
                self._on_progress(report, out)
            if deltas:
                out.insert(0, Deltas(deltas))
            return out + self._start_released()
        finally:
            self._steps += 1
            self._step_began = None
            if self._steps % STATS_EVERY_STEPS == 0 or self.idle:
                self._note_memory()

    # ---------------------------------------------------------------------- step

    def _on_progress(self, report: adapter.BatchProgress, out: list[FromWorker]) -> None:
        sequence = self._running.by_uid.get(report.uid)
        if sequence is None:
            return
        sequence.computed = len(sequence.tokens) - report.total + report.done
        if report.at_boundary and self._untrimmable and self._prefixes.max_bytes > 0:
            # This cache cannot be cut back to here later: keep it now.
            self._running.keep_checkpoint(sequence)
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
            piece = pipeline.finish(self._maker.end_text(token.token))
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
            self._running.keep((token.cache, token.tokens) if token.cache and token.tokens else None)
            out.append(self._end(sequence, *ending(sequence, token.token, token.finish)))
        elif pipeline.stopped or only_call:
            self._running.dismiss(sequence)
            end = ending(sequence, token.token, None) if pipeline.stopped else (FinishReason.TOOL_CALLS, None)
            out.append(self._end(sequence, *end))

    def _end(self, sequence: Sequence, reason: FinishReason, matched: str | int | None) -> Finished:
        self._running.forget(sequence)
        self._cache_stats = self._prefixes.stats()
        return Finished(sequence.request.id, reason, sequence.usage(), matched)

    def _fail(self, sequence: Sequence, error: Exception) -> Failed:
        """Its text could not be made of its tokens: take it out of the batch, if it is still there."""
        log.error("request %s failed", sequence.request.id, exc_info=error)
        self._running.drop(sequence)
        return failed(sequence, error)

    def _recover(self, error: Exception) -> list[FromWorker]:
        return [*recover(self._running, error), *self._start_released()]

    def _new_batch(self) -> adapter.Batch | SerialBatch:
        batch: adapter.Batch | SerialBatch
        if kv_caches.is_batchable(self._model):
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
