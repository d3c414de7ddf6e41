"""Plans and events for the tests of what is made of them."""

from __future__ import annotations

import json
from typing import Any

from mlxk.api.translate import Plan, plan_chat, plan_completion
from mlxk.config.settings import Settings
from mlxk.workers.protocol import Delta, Finished, FinishReason, ToolCall, Usage

MESSAGES = [{"role": "user", "content": "hi"}]
WEATHER_CALL = ToolCall("call_1", "weather", '{"city": "Berlin"}')


def chat(**fields: Any) -> Plan:
    return plan_chat({"model": "tiny", "messages": MESSAGES, **fields}, Settings())


def completion(prompt: Any = "Once", **fields: Any) -> Plan:
    return plan_completion({"model": "tiny", "prompt": prompt, **fields}, Settings())


def text(content: str) -> Delta:
    return Delta("r1", content)


def end(
    reason: FinishReason = FinishReason.STOP, matched: str | int | None = None, usage: Usage | None = None
) -> Finished:
    return Finished("r1", reason, usage or Usage(10, 5, 4, 2), matched)


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """The JSON of each data event, without `[DONE]`."""
    blocks = [block for block in stream.split(b"\n\n") if block.startswith(b"data: ")]
    return [json.loads(block[6:]) for block in blocks if block != b"data: [DONE]"]
