"""One request in the batch of the MLX engine, and how its end is told."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from mlxk.workers.pipeline import TextPipeline
from mlxk.workers.prompts import Prompt
from mlxk.workers.protocol import FinishReason, Generate, Usage


@dataclass(slots=True)
class Sequence:
    """One request in the batch."""

    request: Generate
    uid: int
    prompt: Prompt
    tokens: list[int]
    """Prompt and generated tokens: all that is needed to start again after a failed step."""
    cached: int
    max_tokens: int
    pipeline: TextPipeline
    generated: int = 0
    unreported: int = 0
    reasoning_tokens: int = 0
    boundaries: set[int] = field(default_factory=set)
    recoveries: int = 0
    """Failed steps since its last token."""

    def usage(self) -> Usage:
        return Usage(len(self.prompt.tokens), self.generated, self.cached, self.reasoning_tokens)


def ending(sequence: Sequence, token: int, finish: str | None) -> tuple[FinishReason, str | int | None]:
    """Reason and matched stop of a sequence that the batch (`finish`) or its text has ended at `token`."""
    pipeline = sequence.pipeline
    if finish == "stop" and token in sequence.request.stop_token_ids:
        return FinishReason.STOP, token
    if pipeline.stopped:
        return FinishReason.STOP, pipeline.matched_stop
    if pipeline.made_tool_calls and finish == "stop":
        return FinishReason.TOOL_CALLS, None
    return FinishReason.STOP if finish == "stop" else FinishReason.LENGTH, None


def segments(tokens: list[int], n_cached: int, boundaries: set[int]) -> list[list[int]]:
    """The uncached part of `tokens`, cut at the boundaries that lie inside it."""
    cuts = [n_cached, *sorted(b for b in boundaries if n_cached < b < len(tokens)), len(tokens)]
    return [tokens[a:b] for a, b in itertools.pairwise(cuts)]
