"""What an answer cost, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlxk.api.records import RequestRecord
from mlxk.workers.protocol import Finished, Usage


def total_usage(usages: Sequence[Usage], n: int) -> Usage:
    """Of all choices, in their order. The `n` choices of one prompt share it: it counts once, and as cached
    counts what the first to compute it found, since the others found the first's work."""
    prompts = [usages[start : start + n] for start in range(0, len(usages), n)]
    return Usage(
        prompt_tokens=sum(one[0].prompt_tokens for one in prompts),
        completion_tokens=sum(one.completion_tokens for one in usages),
        cached_tokens=sum(min(choice.cached_tokens for choice in one) for one in prompts),
        reasoning_tokens=sum(one.reasoning_tokens for one in usages),
    )


def usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def note_finish(record: RequestRecord, finished: Sequence[Finished], usage: Usage) -> None:
    """For the access log."""
    record.finish = ",".join(dict.fromkeys(one.reason.value for one in finished))
    record.prompt_tokens = usage.prompt_tokens
    record.cached_tokens = usage.cached_tokens
    record.completion_tokens = usage.completion_tokens
