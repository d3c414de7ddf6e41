"""All that `tiny` promises, through the API: the reply, and a stream that equals it byte for byte."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api.client import Client
from tests.e2e.prompts import expected_cases

CHAT_STOPS = ("\nHuman:", "\nAssistant:", "\nUser:", "\nYou:")
AT_ONCE = 16
KINDS = sorted({case["kind"] for case in expected_cases()})


def fields_of(case: dict[str, Any]) -> dict[str, Any]:
    names = ("tools", "chat_template_kwargs", "max_tokens")
    return {name: case[name] for name in names if name in case}


def reply_of(client: Client, case: dict[str, Any]) -> dict[str, Any]:
    if "prompt" in case:
        choice = client.text("tiny", case["prompt"], **fields_of(case))["choices"][0]
        return {"content": choice["text"], "finish_reason": choice["finish_reason"]}
    choice = client.chat("tiny", case["messages"], **fields_of(case))["choices"][0]
    message = choice["message"]
    return {
        "content": message["content"] or "",
        "reasoning_content": message.get("reasoning_content"),
        "tool_calls": [call["function"] for call in message.get("tool_calls", [])],
        "finish_reason": choice["finish_reason"],
    }


def stream_of(client: Client, case: dict[str, Any]) -> dict[str, Any]:
    if "prompt" in case:
        answer = client.stream_text("tiny", case["prompt"], **fields_of(case))
        return {"content": answer.content, "finish_reason": answer.finish_reason}
    answer = client.stream_chat("tiny", case["messages"], **fields_of(case))
    return {
        "content": answer.content,
        "reasoning_content": answer.reasoning or None,
        "tool_calls": [call["function"] for call in answer.tool_calls],
        "finish_reason": answer.finish_reason,
    }


def wanted(case: dict[str, Any]) -> dict[str, Any]:
    content = case["content"]
    if "prompt" in case:
        return {"content": content, "finish_reason": case["finish_reason"]}
    for stop in CHAT_STOPS:
        content = content.partition(stop)[0]
    return {
        "content": content,
        "reasoning_content": case.get("reasoning_content"),
        "tool_calls": [
            {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
            for call in case.get("tool_calls", [])
        ],
        "finish_reason": case["finish_reason"],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_answers_as_promised_and_its_stream_equals_its_reply(client: Client, kind: str) -> None:
    cases = [case for case in expected_cases() if case["kind"] == kind]
    if kind == "long":
        cases = cases[-1:]  # a second's worth of tokens each; tools/tiny/check.py asks for all
    with ThreadPoolExecutor(AT_ONCE) as pool:
        replies = pool.map(lambda case: reply_of(client, case), cases)
        streams = pool.map(lambda case: stream_of(client, case), cases)
    for case, reply, stream in zip(cases, replies, streams, strict=True):
        assert stream == reply, case["id"]
        if "content" in case:  # what a server makes of a malformed tool call is its own choice
            assert reply == wanted(case), case["id"]


def test_hidden_stops_are_not_reported_and_not_in_completions(client: Client) -> None:
    prompt = "Write a chat transcript."
    reply = client.chat("tiny", prompt)["choices"][0]
    assert reply["message"]["content"] == "Hello there."
    assert reply["finish_reason"] == "stop"
    assert "matched_stop" not in reply
    # The same template by hand, as a raw completion: the text is the model's, whole.
    raw = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    assert "\nHuman:" in client.text("tiny", raw, max_tokens=60)["choices"][0]["text"]
