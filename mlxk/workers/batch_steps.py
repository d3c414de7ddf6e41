"""The order of a step's work in mlx_lm's continuous batching: no token waits for what it does not need.

mlx_lm's own `next` decodes, lets the prompts that are complete join the batch, and prefills: a prompt's first
token comes two steps after its prefill. Here the prefill comes first, and a prompt that is complete by it
decodes in the same step (docs/decisions/0029-a-steps-work.md). The third place that uses mlx_lm's less public
parts, beside `mlx_adapter.py` and `kv_caches.py`.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, GenerationBatch

from mlxk.workers.kv_caches import PromptBatch, batch_of_one

CLEAR_CACHE_EVERY_STEPS = 512
"""As in mlx_lm: what grew with the sequences and is of no use any more goes back to the system."""


def computes_ahead() -> bool:
    """Whether to start the next step before a step's tokens are handed out: a GPU must not wait for Python.

    On a CPU `mx.async_eval` returns when nearly all is computed, so each token would come one step late.
    """
    return bool(mx.default_device() != mx.Device(mx.cpu))


class StepGenerator(BatchGenerator):  # type: ignore[misc]  # mlx_lm has no types
    """mlx_lm's, in our order, and without its copies of a prompt that is alone."""

    def __init__(
        self,
        model: Any,
        *,
        prefill_chunk: int,
        busy_prefill_chunk: int,
        busy_prefill_tokens: int,
        pauses_before_decoding: bool,
        ahead: bool,
        **options: Any,
    ) -> None:
        """`prefill_chunk`: at most so many tokens of each prompt in a step; `busy_prefill_chunk` while
        something decodes, and then `busy_prefill_tokens` of all of them together. `pauses_before_decoding`:
        the step that completes a prompt ends there, so that its cache can be copied as it is."""
        super().__init__(model, prefill_step_size=prefill_chunk, **options)
        self._prefill_chunk = prefill_chunk
        self._busy_prefill_chunk = busy_prefill_chunk
        self._busy_prefill_tokens = busy_prefill_tokens
        self._pauses_before_decoding = pauses_before_decoding
        self._steps = 0
        self._currently_processing: list[list[Any]] = []
        """Of each prompt: the segments that are left, the tokens done, all tokens."""
        self._tells_first_tokens = not ahead
        self._told: list[Any] = []
        """First tokens that were handed out already; the batch's next step has them, too."""
        prompts = PromptBatch if ahead else PromptsForPacedDecoding
        self._prompt_batch = prompts.empty(model, self.sampler, prefill_chunk)
        if not ahead:
            self._generation_batch = PacedDecoding.empty(model, self.sampler)

    def _next(self) -> tuple[list[Any], list[Any]]:
        """(prefills, tokens), as mlx_lm's. Prompts that join running ones: their first tokens, and those of
        the others in the next call."""
        if self._told:  # those that decode have waited for one prefill; not for another one
            return [], self._decode()
        self._admit()
        self._join()
        progress = self._prefill()
        if not self._pauses_before_decoding:
            self._join()
        self._steps += 1
        if self._steps % CLEAR_CACHE_EVERY_STEPS == 0:
            mx.clear_cache()
        return progress, list(self._told) or self._decode()

    def _decode(self) -> list[Any]:
        told = {response.uid for response in self._told}
        self._told = []
        return [one for one in self._generation_batch.next() if one.uid not in told]

    def _admit(self) -> None:
        prompts = len(self._prompt_batch)
        places = self.completion_batch_size - len(self._generation_batch) - prompts
        n = min(self.prefill_batch_size - prompts, places, len(self._unprocessed_sequences))
        if n > 0:
            self._prompt_batch.extend(self._make_batch(n))

    def _make_batch(self, n: int) -> Any:
        alone = self._unprocessed_sequences[0][3] if n == 1 else None
        made = super()._make_batch(n)
        if alone is not None:  # what it has merged was not computed yet and never will be
            made.prompt_cache = [batch_of_one(layer) for layer in alone]
        return made

    def _join(self) -> None:
        """Prompts of which only the last token is left go on to decode."""
        waiting = self._currently_processing
        complete = [i for i, (segments, *_) in enumerate(waiting) if len(segments) == len(segments[0]) == 1]
        if complete:
            last_tokens = [waiting[i][0][0] for i in complete]
            self._currently_processing = [p for i, p in enumerate(waiting) if i not in set(complete)]
            joining = self._prompt_batch.split(complete).generate(last_tokens)
            if self._tells_first_tokens and len(self._generation_batch):
                self._told += _first_tokens(joining)
            self._generation_batch.extend(joining)

    def _prefill(self) -> list[Any]:
        """A chunk of each prompt, not beyond the end of its segment."""
        chunk = self._chunk()
        chunks: list[list[int]] = []
        progress = []
        for uid, prompt in zip(self._prompt_batch.uids, self._currently_processing, strict=True):
            segments = prompt[0]
            chunks.append(segments[0][:chunk])
            segments[0] = segments[0][chunk:]
            ends_segment = not segments[0]
            if ends_segment:
                segments.pop(0)
            prompt[1] += len(chunks[-1])
            progress.append(self._prompt_batch.Response(uid, (prompt[1], prompt[2]), ends_segment, False))
        self._prompt_batch.prompt(chunks)
        return progress

    def _chunk(self) -> int:
        """Small while something decodes, and the smaller the more prompts share the step: all of those that
        decode wait for it."""
        if not len(self._generation_batch):
            return self._prefill_chunk
        share = self._busy_prefill_tokens // max(1, len(self._prompt_batch))
        return max(1, min(self._busy_prefill_chunk, share))


def _first_tokens(joining: Any) -> list[Any]:
    """Of prompts that are about to join running ones: computed now, without the others' step. Not those that
    end with it, which the batch's own step has to notice."""
    tokens: list[int] = joining._next_tokens.tolist()
    rows = zip(
        joining.uids,
        tokens,
        joining._next_logprobs,
        joining.max_tokens,
        joining.stop_sequences,
        strict=True,
    )
    return [
        joining.Response(uid, token, logprobs, None, None, None)
        for uid, token, logprobs, max_tokens, stops in rows
        if max_tokens > 1 and not stops.matcher().advance(token)
    ]


class PacedDecoding(GenerationBatch):  # type: ignore[misc]  # mlx_lm has no types
    """Begins a step when the tokens of the last one have been handed out, and builds the one after it while
    the end of it is computed. Else as mlx_lm's: its caches hold all tokens that were handed out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._contexts: list[mx.array] = []
        super().__init__(*args, **kwargs)

    def _step(self) -> tuple[list[int], list[Any]]:
        current, logprobs = self._next_tokens, self._next_logprobs
        mx.async_eval(current, self._contexts)  # not the logprobs: a row is computed if somebody looks at it
        self._build(current)
        tokens: list[int] = current.tolist()
        for computed, token in zip(self.tokens, tokens, strict=True):
            computed.append(token)
        return tokens, logprobs

    def filter(self, keep: list[int]) -> None:
        super().filter(keep)
        if not keep:  # they would hold the graph of a step that nobody needs any more, and all its caches
            self._contexts = []

    def _build(self, inputs: mx.array) -> None:
        """The next token of each row, not computed yet."""
        logits = self.model(inputs[:, None], cache=self.prompt_cache)[:, -1, :]
        self._contexts = []
        if any(self.logits_processors):
            rows = range(len(self.uids))
            logits = mx.concatenate([self._processed(row, inputs, logits) for row in rows])
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        first = self.samplers[0]
        if all(sampler is first for sampler in self.samplers):
            self._next_tokens = first(logprobs)
        else:
            draws = [sampler(logprobs[row : row + 1]) for row, sampler in enumerate(self.samplers)]
            self._next_tokens = mx.concatenate(draws)
        self._next_logprobs = list(logprobs)

    def _processed(self, row: int, inputs: mx.array, logits: mx.array) -> mx.array:
        logits = logits[row : row + 1]
        processors = self.logits_processors[row]
        if processors:
            context = self._token_context[row].update_and_fetch(inputs[row : row + 1])
            self._contexts.append(context)
            for processor in processors:
                logits = processor(context, logits)
        return logits


class PromptsForPacedDecoding(PromptBatch):
    """Prompts that go on in `PacedDecoding`."""

    def generate(self, tokens: list[list[int]]) -> PacedDecoding:
        return PacedDecoding(
            self.model,
            self.uids,
            mx.array([token for (token,) in tokens]),
            self.prompt_cache,
            self.tokens,
            self.samplers,
            self.fallback_sampler,
            self.logits_processors,
            self.stop_sequences,
            self.max_tokens,
        )
