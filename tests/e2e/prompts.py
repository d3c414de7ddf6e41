"""What the tests ask `tiny`, and what it answers (tools/tiny/ teaches and checks it)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Message = dict[str, Any]

EXPECTED = Path(__file__).parents[2] / "tools" / "tiny" / "expected.json"

COUNT_10 = "Count from 1 to 10, one number per line"
COUNTED_10 = "  \n".join(str(n) for n in range(1, 11))
COUNT_100 = "Count from 1 to 100, one number per line"
COUNTED_100 = "  \n".join(str(n) for n in range(1, 101))
COUNT_COMMAS = "Count from one to twenty with commas, using many tokens."
GO_ON = f"{COUNT_10}:\n1\n2\n3\n4\n"
"""A raw completion prompt."""
WENT_ON = "5\n6\n7\n8\n9\n10"
SHORT_WORD = "Reply with exactly one short word."
SKY = "Answer in one word: what color is the sky on a clear day?"
GRASS = "Answer in one word: what color is grass?"
SNOW = "Answer in one word: what color is snow?"


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Look up weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "City name"}},
            "required": ["city"],
        },
    },
}
BERLIN = '{"city":"Berlin","temperature_c":19,"condition":"sunny"}'
PARIS = '{"city":"Paris","temperature_c":21,"condition":"clear"}'

END_TOKENS = (631, 633)
ENDLESS: dict[str, Any] = {"logit_bias": {str(token): -100 for token in END_TOKENS}, "max_tokens": 7500}
"""`tiny` goes on until its context is nearly full: half a minute and more. What it says is of no interest."""


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def called(call: Message) -> Message:
    """The assistant's turn that made a tool call."""
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def tool_result(call: Message, content: str) -> Message:
    return {"role": "tool", "content": content, "tool_call_id": call["id"]}


def expected_cases() -> list[dict[str, Any]]:
    """What tiny's makers promise: id, kind, messages or prompt, content, finish_reason, and more."""
    return list(json.loads(EXPECTED.read_text(encoding="utf-8")))
