"""Stream and reply are the same bytes over HTTP: cut at every token, stopped everywhere, many at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api.client import Client
from tests.e2e.prompts import expected_cases

AT_ONCE = 12
LONGEST = 40
"""Texts of up to so many bytes are cut at every token."""
OTHER_KINDS = ("tool", "tool_pair", "think", "no_think", "completion", "count")
MOST_CUTS = 8
HARD_KINDS = ("emoji", "language", "specimen", "broken_tool_call")

Got = tuple[Any, ...]
Request = tuple[dict[str, Any], dict[str, Any]]
"""A listed prompt, and what is asked for besides."""


def whole(client: Client, case: dict[str, Any], fields: dict[str, Any]) -> Got:
    if "prompt" in case:
        choice = client.text("tiny", case["prompt"], **fields)["choices"][0]
        message = {"content": choice["text"]}
    else:
        choice = client.chat("tiny", case["messages"], **fields)["choices"][0]
        message = choice["message"]
    calls = [call["function"] for call in message.get("tool_calls", [])]
    return (
        message["content"] or "",
        message.get("reasoning_content", ""),
        calls,
        choice["finish_reason"],
        choice.get("matched_stop"),
    )


def streamed(client: Client, case: dict[str, Any], fields: dict[str, Any]) -> Got:
    if "prompt" in case:
        answer = client.stream_text("tiny", case["prompt"], **fields)
    else:
        answer = client.stream_chat("tiny", case["messages"], **fields)
    assert answer.done
    calls = [call["function"] for call in answer.tool_calls]
    return answer.content, answer.reasoning, calls, answer.finish_reason, answer.matched_stop


def compare(client: Client, requests: list[Request]) -> list[Got]:
    """Each request streamed and whole, all of them mixed and some at once; what each said."""

    def both(request: Request) -> Got:
        case, fields = request
        if case.get("tools"):
            fields = {**fields, "tools": case["tools"]}
        first = whole(client, case, fields)
        assert streamed(client, case, fields) == first, (case["id"], fields)
        return first

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(both, requests))


def hard_cases() -> list[dict[str, Any]]:
    return [case for case in expected_cases() if case["kind"] in HARD_KINDS]


def test_replies_cut_at_every_token_in_mixed_company(client: Client) -> None:
    """In the middle of an emoji, of a combining sequence, of a call, of thoughts. Calls, thoughts and raw
    completions are in the same batches. (test_answers.py has all 122 texts whole.)"""
    requests: list[Request] = []
    for case in hard_cases():
        n_bytes = len(case["text"].encode())
        if n_bytes <= LONGEST:
            requests += [(case, {"max_tokens": n}) for n in range(1, min(n_bytes, MOST_CUTS))]
    for case in [case for case in expected_cases() if case["kind"] in OTHER_KINDS][::3]:
        requests += [(case, {"max_tokens": n}) for n in range(3, 40, 9)]
    said = compare(client, requests)
    assert len(requests) >= 200
    assert any("\ufffd" in got[0] for got in said), "no text was cut within a character"
    assert any(got[2] for got in said)
    assert any(got[1] for got in said)
    for (case, fields), got in zip(requests, said, strict=True):
        if case["kind"] in HARD_KINDS:
            assert case["text"].startswith(got[0].rstrip("\ufffd")), (case["id"], fields)


@pytest.mark.parametrize("case_id", ["emoji-2", "greeting-1"])
def test_every_place_of_a_text_as_a_stop_string(client: Client, case_id: str) -> None:
    case = next((case for case in expected_cases() if case["id"] == case_id), None)
    assert case is not None
    text = case["content"]
    stops = [text[i : i + n] for n in (1, 3) for i in range(len(text) - n + 1)]
    said = compare(client, [(case, {"max_tokens": 100, "stop": [stop]}) for stop in stops])
    for stop, got in zip(stops, said, strict=True):
        assert got == (text[: text.find(stop)], "", [], "stop", stop)
