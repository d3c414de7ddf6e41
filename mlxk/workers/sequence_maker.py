"""From a request to a sequence that can run. Whatever would raise inside the shared step is refused here,
where it costs this request alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from mlxk.workers.constraints import Constraint, Constraints
from mlxk.workers.detokenizer import Detokenizer, SlowDetokenizer
from mlxk.workers.logprobs import TokenBytes, TracedPipeline
from mlxk.workers.markers import Markers
from mlxk.workers.mlx_adapter import LogitsProcessor, Sampler
from mlxk.workers.pipeline import TextPipeline, TextSplitter
from mlxk.workers.prefix_cache import token_key
from mlxk.workers.prompts import Prompt, too_long
from mlxk.workers.protocol import FaultCode, Generate, fault
from mlxk.workers.sampling import Samplers, check_sampling
from mlxk.workers.sequences import Sequence, checkpoints


@dataclass(frozen=True, slots=True)
class Controls:
    """How a sequence's next token is picked, and which of them end it."""

    sampler: Sampler
    processors: list[LogitsProcessor]
    stop_ids: frozenset[int]


class SequenceMaker:
    """One model's."""

    def __init__(
        self,
        tokenizer: Any,
        markers: Markers,
        samplers: Samplers,
        *,
        vocab_size: int,
        context_length: int,
        checkpoint_distance: int | None = None,
    ) -> None:
        """`tokenizer` is mlx_lm's TokenizerWrapper. `checkpoint_distance`: in tokens, for caches that cannot
        be trimmed."""
        self._tokenizer = tokenizer
        self._fast_tokenizer = getattr(tokenizer, "backend_tokenizer", None)
        self._markers = markers
        self._samplers = samplers
        self._constraints = Constraints(tokenizer, lambda initial: markers.splitter(initial, with_tools=True))
        self._bytes = TokenBytes(tokenizer)
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._checkpoint_distance = checkpoint_distance

    def sequence(self, request: Generate, prompt: Prompt) -> Sequence:
        """Not in the batch yet, and with nothing of it computed. Raises FaultError."""
        distance = self._checkpoint_distance
        max_tokens = self._max_tokens(request, len(prompt.tokens))
        self._check_sampling(request)
        constraint = self._constraints.constraint(request, prompt)
        return Sequence(
            request=request,
            uid=-1,
            prompt=prompt,
            tokens=list(prompt.tokens),
            key=token_key(prompt.tokens),
            max_tokens=max_tokens,
            pipeline=self._pipeline(request, prompt, constraint),
            constraint=constraint,
            boundaries=frozenset(prompt.boundaries),
            checkpoints=checkpoints(len(prompt.tokens), distance) if distance else frozenset(),
        )

    def controls(self, sequence: Sequence) -> Controls:
        """For a sequence that begins, or begins again after a failed step."""
        request, constraint = sequence.request, sequence.constraint
        processors = self._samplers.processors(request.sampling, len(sequence.prompt.tokens))
        if constraint is not None:
            processors = [*processors, constraint.restart()]  # last: no bias may bring back what it forbids
        stop_ids = frozenset(request.stop_token_ids)
        if not request.ignore_eos or (constraint is not None and constraint.ends_reply):
            stop_ids |= frozenset(self._tokenizer.eos_token_ids)
        sampler = self._samplers.sampler(request.sampling, drawn=sequence.generated)
        return Controls(sampler, processors, stop_ids)

    def end_text(self, token: int) -> str | None:
        """The text of an end token; None for a stop token id, which cuts the reply."""
        if token not in self._tokenizer.eos_token_ids:
            return None
        text: str = self._tokenizer.decode([token])
        return text

    def _max_tokens(self, request: Generate, n_prompt: int) -> int:
        left = self._context_length - n_prompt
        if left < 1:
            raise too_long(self._context_length, n_prompt, request)
        if request.max_tokens is not None:
            return max(1, min(request.max_tokens, left))
        return max(1, min(int(self._context_length * request.context_share), left))

    def _check_sampling(self, request: Generate) -> None:
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
            tool_format=(constraint and constraint.tool_format) or self._markers.tool_format,
            tools=request.tools,
        )
