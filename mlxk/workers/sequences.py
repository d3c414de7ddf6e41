"""One request in the batch of the MLX engine, and how its end is told."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxk.workers.pipeline import TextPipeline
from mlxk.workers.prompts import Prompt
from mlxk.workers.protocol import FinishReason, Generate, Usage

if TYPE_CHECKING:
    from mlxk.workers.constraints import Constraint


MAX_CHECKPOINTS = 8
"""Of one prompt. Each holds as much as a conversation of its length."""


@dataclass(slots=True)
class Sequence:
    """One request in the batch."""

    request: Generate
    uid: int
    prompt: Prompt
    tokens: list[int]
    """Prompt and generated tokens: all that is needed to start again after a failed step."""
    key: bytes
    """The prompt as the prefix cache compares it (`prefix_cache.token_key`)."""
    max_tokens: int
    pipeline: TextPipeline
    constraint: Constraint | None = None
    cached: int = 0
    computed: int = 0
    """Tokens of the prompt that its KV cache holds, while it is in prefill."""
    may_wait: bool = True
    """For another one that computes the beginning of its prompt."""
    generated: int = 0
    unreported: int = 0
    boundaries: frozenset[int] = frozenset()
    """Positions in the prompt where a turn ends. The prefill pauses there."""
    checkpoints: frozenset[int] = frozenset()
    """The same, at regular distances: where prompts that are no conversations may part."""
    recoveries: int = 0
    """Failed steps since its last token."""

    def usage(self) -> Usage:
        return Usage(len(self.prompt.tokens), self.generated, self.cached, self.pipeline.reasoning_tokens)


def ending(sequence: Sequence, token: int, finish: str | None) -> tuple[FinishReason, str | int | None]:
    """Reason and matched stop of a sequence that the batch (`finish`) or its text has ended at `token`.

    Calls that were made are the reason whatever ended the reply, unless it was cut at `max_tokens`.
    """
    pipeline = sequence.pipeline
    if finish == "length" and not pipeline.stopped:
        return FinishReason.LENGTH, None
    reason = FinishReason.TOOL_CALLS if pipeline.made_tool_calls else FinishReason.STOP
    if finish == "stop" and not pipeline.stopped and token in sequence.request.stop_token_ids:
        return reason, token
    return reason, pipeline.matched_stop


def checkpoints(n_tokens: int, distance: int) -> frozenset[int]:
    """Where to keep a cache that cannot be trimmed in a prompt of `n_tokens`: at multiples of `distance`, or
    of as many times that as gives at most MAX_CHECKPOINTS: the same places in prompts of about one length."""
    while n_tokens > (MAX_CHECKPOINTS + 1) * distance:
        distance *= 2
    return frozenset(range(distance, n_tokens, distance))


def segments(tokens: list[int], n_cached: int, pauses: frozenset[int]) -> list[list[int]]:
    """The uncached part of `tokens`, cut at the pauses that lie inside it."""
    cuts = [n_cached, *sorted(p for p in pauses if n_cached < p < len(tokens)), len(tokens)]
    return [tokens[a:b] for a, b in itertools.pairwise(cuts)]
