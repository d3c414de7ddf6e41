"""Thoughts and tool calls through the API: the shapes, the ends, and the histories that clients send back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.client import CHAT, Client, chat_body
from tests.e2e.prompts import BERLIN, WEATHER, called, expected_cases, user

THINK = "Think: what is 2 + 3?"
CALL_BERLIN = "You must call the weather tool for Berlin. Do not answer directly."


def thoughts_of(prompt: str) -> str:
    (case,) = (c for c in expected_cases() if c["kind"] == "think" and c["messages"] == [user(prompt)])
    return str(case["reasoning_content"])


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 5, 8])
def test_a_reply_cut_inside_of_its_thoughts_has_an_empty_content(client: Client, max_tokens: int) -> None:
    reply = client.chat("tiny", THINK, max_tokens=max_tokens)
    choice = reply["choices"][0]
    answer = client.stream_chat("tiny", THINK, max_tokens=max_tokens)
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
    thoughts = choice["message"].get("reasoning_content", "")
    assert thoughts_of(THINK).startswith(thoughts)
    assert (answer.content, answer.reasoning, answer.finish_reason) == ("", thoughts, "length")
    counted = reply["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert counted == max_tokens - 1  # without the opening mark


def test_reasoning_tokens_are_those_between_the_marks(client: Client) -> None:
    reply = client.chat("tiny", THINK, max_tokens=100)
    message = reply["choices"][0]["message"]
    inside = client.post(
        "/tokenize", {"model": "tiny", "prompt": f"\n{message['reasoning_content']}\n"}
    ).json()
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == inside["count"]


def test_thinking_can_be_switched_off(client: Client) -> None:
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    for fields in (off, {"reasoning_effort": "none"}):
        reply = client.chat("tiny", THINK, max_tokens=60, **fields)
        assert "reasoning_content" not in reply["choices"][0]["message"]
        assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_earlier_thoughts_reach_the_template(client: Client) -> None:
    past = {"role": "assistant", "content": "5", "reasoning_content": "I add 3 to 2."}
    plain = {"role": "assistant", "content": "5"}
    n_tokens = [
        client.chat("tiny", [user("2 + 3?"), turn, user("Thanks")], max_tokens=1)["usage"]["prompt_tokens"]
        for turn in (plain, past)
    ]
    assert n_tokens[1] > n_tokens[0] + 5


def test_a_call_is_streamed_as_openai_does(client: Client) -> None:
    body = chat_body("tiny", CALL_BERLIN, tools=[WEATHER], max_tokens=60)
    with client.stream(CHAT, body) as stream:
        deltas = [event["choices"][0]["delta"] for event in stream]
    opening, arguments = (delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta)
    assert set(opening) == {"index", "id", "type", "function"}
    assert opening["function"] == {"name": "weather", "arguments": ""}
    assert (opening["index"], opening["type"]) == (0, "function")
    assert arguments == {"index": 0, "function": {"arguments": '{"city": "Berlin"}'}}
    assert deltas[-1] == {}


def history(call: dict[str, Any], result: dict[str, Any]) -> list[dict[str, Any]]:
    return [user(CALL_BERLIN), called(call), result]


def test_all_forms_of_a_call_and_its_result_are_the_same_prompt(client: Client) -> None:
    """Arguments as text or object, results as text or parts, null or no content, with and without ids."""
    text = {"name": "weather", "arguments": '{"city": "Berlin"}'}
    as_object = {"name": "weather", "arguments": {"city": "Berlin"}}
    result = {"role": "tool", "tool_call_id": "call_1", "content": BERLIN}
    parts = {
        **result,
        "content": [{"type": "text", "text": BERLIN[:9]}, {"type": "text", "text": BERLIN[9:]}],
    }
    forms = [
        history({"id": "call_1", "type": "function", "function": text}, result),
        history({"id": "call_1", "type": "function", "function": as_object}, parts),
        history({"type": "function", "function": text}, {"role": "tool", "content": BERLIN}),
        history({"id": "call_1", "function": text}, {**result, "tool_call_id": "nobody's"}),
    ]
    forms.append([{k: v for k, v in m.items() if v is not None} for m in forms[0]])
    replies = [client.chat("tiny", messages, tools=[WEATHER], max_tokens=60) for messages in forms]
    assert len({reply["usage"]["prompt_tokens"] for reply in replies}) == 1
    assert len({reply["choices"][0]["message"]["content"] for reply in replies}) == 1
    assert "19" in replies[0]["choices"][0]["message"]["content"]


def test_a_malformed_call_is_text_and_the_next_request_works(client: Client) -> None:
    prompt = "Make a broken tool call."
    (case,) = (case for case in expected_cases() if case["kind"] == "broken_tool_call")
    choice = client.chat("tiny", prompt, tools=[WEATHER], max_tokens=60)["choices"][0]
    answer = client.stream_chat("tiny", prompt, max_tokens=60)
    assert answer.content == case["text"]
    assert (answer.tool_calls, answer.finish_reason) == ([], "stop")
    assert choice["finish_reason"] in ("stop", "length", "tool_calls")
    assert client.chat("tiny", CALL_BERLIN, tools=[WEATHER], max_tokens=60)["choices"][0]["message"][
        "tool_calls"
    ]
