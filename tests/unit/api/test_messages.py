from __future__ import annotations

from typing import Any

import pytest

from tests.unit.api.plans import chat


def rendered(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    (generate,) = chat(messages=list(messages)).generates
    assert generate.messages is not None
    return generate.messages


def assistant_call(arguments: Any) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def test_developer_is_system() -> None:
    assert rendered({"role": "developer", "content": "Be brief."}) == [
        {"role": "system", "content": "Be brief."}
    ]


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "🙂b"}]
    assert rendered({"role": "user", "content": parts})[0]["content"] == "a 🙂b"


@pytest.mark.parametrize("content", [None, [], ""])
def test_no_content_is_an_empty_text(content: Any) -> None:
    assert rendered({"role": "assistant", "content": content})[0]["content"] == ""
    assert rendered({"role": "assistant"})[0]["content"] == ""


def test_names_ids_and_reasoning_are_kept() -> None:
    assert rendered(
        {"role": "user", "content": "x", "name": "ann", "unknown": 1},
        {"role": "assistant", "content": "y", "reasoning_content": "hm", "refusal": None, "audio": None},
        {"role": "tool", "content": "z", "tool_call_id": "c1"},
    ) == [
        {"role": "user", "content": "x", "name": "ann"},
        {"role": "assistant", "content": "y", "reasoning_content": "hm"},
        {"role": "tool", "content": "z", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize("arguments", ['{"city": "Berlin", "days": 2}', {"city": "Berlin", "days": 2}])
def test_tool_arguments_become_an_object_for_the_template(arguments: Any) -> None:
    (message,) = rendered(assistant_call(arguments))
    (call,) = message["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": {"city": "Berlin", "days": 2}}
    assert (call["id"], call["type"], message["content"]) == ("c1", "function", "")
    assert list(call["function"]["arguments"]) == ["city", "days"]


@pytest.mark.parametrize("arguments", ['{"city": "Ber', "[1]", '"x"', "", "nonsense", "[" * 100_000])
def test_malformed_tool_arguments_are_passed_on_as_they_were_written(arguments: str) -> None:
    (message,) = rendered(assistant_call(arguments))
    assert message["tool_calls"][0]["function"]["arguments"] == arguments


def test_arguments_with_integers_of_more_than_64_bits_stay_text() -> None:
    """They could not be sent to the worker, which reads them itself: a conversation must be able to go on."""
    text = '{"id": 12345678901234567890123}'
    (shown,) = rendered(assistant_call(text))
    assert shown["tool_calls"][0]["function"]["arguments"] == text
