"""What an answer cost, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlxk.api.records import RequestRecord
from mlxk.supervisor.meters import GenerationMeter
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


def note_finish(record: RequestRecord, finished: Sequence[Finished]) -> None:
    """For the access log."""
    record.finish = ",".join(dict.fromkeys(one.reason.value for one in finished))


def note_progress(record: RequestRecord, meters: Sequence[GenerationMeter], n: int) -> None:
    """For the access log: how far the choices have come, also where it was not to their end."""
    if not meters:
        return
    record.queue_ms = max(meter.waited_s for meter in meters) * 1000
    prompts = [meters[start : start + n] for start in range(0, len(meters), n)]
    begun = [[one.usage for one in prompt if one.has_begun] for prompt in prompts]
    if any(begun):
        usages = [usage for prompt in begun for usage in prompt]
        record.prompt_tokens = sum(one[0].prompt_tokens for one in begun if one)
        record.cached_tokens = sum(min(usage.cached_tokens for usage in one) for one in begun if one)
        record.completion_tokens = sum(usage.completion_tokens for usage in usages)
    speaking = [meter for meter in meters if meter.tokens]
    if speaking:
        first_at = min(meter.first_at for meter in speaking)
        record.ttft_ms = (first_at - record.started_at) * 1000
        record.tokens_per_s = _tokens_per_s(speaking)


def _tokens_per_s(meters: Sequence[GenerationMeter]) -> float | None:
    """After the first token. Where several came at first, their text was held back and nobody knows when the
    first was made; then the prefill counts too."""
    last_at = max(meter.last_at for meter in meters)
    if all(meter.first_count == 1 for meter in meters):
        begin_at, tokens = min(meter.first_at for meter in meters), sum(one.tokens - 1 for one in meters)
    else:
        begin_at = min(meter.granted_at or meter.began for meter in meters)
        tokens = sum(meter.tokens for meter in meters)
    return tokens / (last_at - begin_at) if last_at > begin_at else None
