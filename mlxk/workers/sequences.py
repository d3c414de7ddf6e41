"""One request in the batch of the MLX engine, and how its end is told."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlxk.workers.pipeline import TextPipeline
from mlxk.workers.prompts import Prompt
from mlxk.workers.protocol import FinishReason, Generate, Usage

if TYPE_CHECKING:
    from mlxk.workers.constraints import Constraint


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
    constraint: Constraint | None = None
    generated: int = 0
    unreported: int = 0
    boundaries: set[int] = field(default_factory=set)
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


def segments(tokens: list[int], n_cached: int, boundaries: set[int]) -> list[list[int]]:
    """The uncached part of `tokens`, cut at the boundaries that lie inside it."""
    cuts = [n_cached, *sorted(b for b in boundaries if n_cached < b < len(tokens)), len(tokens)]
    return [tokens[a:b] for a, b in itertools.pairwise(cuts)]
