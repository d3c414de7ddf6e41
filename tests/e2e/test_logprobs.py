"""Log probabilities through the unmodified `openai` client, with real models."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tests.e2e.openai_sdk import Sdk
from tests.e2e.prompts import COUNT_10, GO_ON, WEATHER, WENT_ON

EMOJI = "Reply with a family emoji."
TEXTS = [EMOJI, "Think: what is 2 + 3?", "End with a less-than sign."]


def text_of(entries: list[Any]) -> str:
    return b"".join(bytes(entry.bytes) for entry in entries).decode()


def of_stream(chunks: list[Any], index: int = 0) -> tuple[str, list[Any]]:
    """Content and entries of one choice; entries come only beside content."""
    content, entries = "", []
    for choice in (choice for chunk in chunks for choice in chunk.choices if choice.index == index):
        content += choice.delta.content or ""
        if choice.logprobs is not None:
            assert choice.delta.content
            assert choice.logprobs.refusal is None
            entries += choice.logprobs.content
    return content, entries


def dumped(entries: list[Any]) -> list[Any]:
    return [entry.model_dump() for entry in entries]


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_a_reply_s_entries_are_its_content_streamed_and_whole(sdk: Sdk, text: str) -> None:
    choice = sdk.chat(text, logprobs=True, top_logprobs=3, max_tokens=100).choices[0]
    entries = choice.logprobs.content
    assert text_of(entries) == choice.message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].bytes == entry.bytes, "greedy takes the likeliest"
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) < 1.0001
    content, streamed = of_stream(sdk.chunks(text, logprobs=True, top_logprobs=3, max_tokens=100))
    assert (content, [entry.token for entry in streamed]) == (
        choice.message.content,
        [entry.token for entry in entries],
    )


def test_a_stop_string_s_tokens_are_not_told(sdk: Sdk) -> None:
    choice = sdk.chat(COUNT_10, logprobs=True, stop=["\n6"]).choices[0]
    assert choice.message.content == "1  \n2  \n3  \n4  \n5  "
    assert text_of(choice.logprobs.content).startswith(choice.message.content)
    assert "6" not in text_of(choice.logprobs.content)


def test_choices_have_their_own_and_none_is_asked_for_none_is_there(sdk: Sdk) -> None:
    fields = {"n": 3, "temperature": 1.5, "seed": 7, "max_tokens": 12, "logprobs": True}
    reply = sdk.chat("Who are you?", **fields)
    chunks = sdk.chunks("Who are you?", **fields)
    for index, choice in enumerate(reply.choices):
        assert text_of(choice.logprobs.content).strip() == choice.message.content.strip()
        assert all(entry.top_logprobs == [] for entry in choice.logprobs.content)
        assert of_stream(chunks, index)[0] == choice.message.content
        assert [one.token for one in of_stream(chunks, index)[1]] == [
            one.token for one in choice.logprobs.content
        ]
    assert sdk.chat("Who are you?").choices[0].logprobs is None
    assert all(choice.logprobs is None for chunk in sdk.chunks("Who are you?") for choice in chunk.choices)


def test_a_call_has_no_entries(sdk: Sdk) -> None:
    asked = "Call the weather tool for Berlin. Do not answer directly."
    choice = sdk.chat(asked, tools=[WEATHER], logprobs=True).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.logprobs.content == []


def test_a_completion_has_parallel_lists_streamed_and_whole(sdk: Sdk) -> None:
    choice = sdk.text(GO_ON, max_tokens=100, logprobs=2).choices[0]
    assert choice.text == WENT_ON
    told = choice.logprobs
    assert "".join(told.tokens) == WENT_ON
    assert [
        WENT_ON[offset:].startswith(token)
        for offset, token in zip(told.text_offset, told.tokens, strict=True)
    ]
    assert told.text_offset == [sum(map(len, told.tokens[:i])) for i in range(len(told.tokens))]
    for token, value, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert top[token] == value == max(top.values())
        assert len(top) == 2
    chunks = list(sdk.each(sdk.text(GO_ON, max_tokens=100, logprobs=2, stream=True)))
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs is not None]
    assert [token for part in parts for token in part.tokens] == told.tokens
    assert [offset for part in parts for offset in part.text_offset] == told.text_offset
    assert sdk.text(GO_ON, max_tokens=3, logprobs=0).choices[0].logprobs.top_logprobs is None
    assert sdk.text(GO_ON, max_tokens=3).choices[0].logprobs is None


SHAPE = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "weather", "strict": True, "schema": SHAPE}}


@pytest.mark.parametrize("sampled", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("text", ["Hello", "Think: what is 2 + 3?"])
def test_of_a_structured_reply_they_are_those_of_what_the_grammar_allows(
    sdk: Sdk, text: str, sampled: dict[str, Any]
) -> None:
    """Decision 0018: of the distribution after the constraint, and before temperature."""
    fields = {"response_format": FORMAT, "logprobs": True, "top_logprobs": 20, "max_tokens": 200, **sampled}
    choice = sdk.chat(text, **fields).choices[0]
    entries = choice.logprobs.content
    said = json.loads(choice.message.content)
    assert set(said) == {"city", "warm"}
    assert text_of(entries).strip() == choice.message.content
    for entry in entries:
        assert entry.bytes in [top.bytes for top in entry.top_logprobs], "all that is allowed is among 20"
        assert entry.logprob > -9999, "what the grammar forbids is never sampled"
        assert all(top.logprob > -9999 for top in entry.top_logprobs)
        # Few tokens are allowed at a place of this grammar: what is told of them is the whole distribution.
        if len(entry.top_logprobs) < 20:
            assert sum(math.exp(top.logprob) for top in entry.top_logprobs) == pytest.approx(1, abs=1e-4)
    alone = [entry for entry in entries if len(entry.top_logprobs) == 1]
    assert alone, "between the quotes of a key there is one way to go on"
    assert all(entry.logprob == pytest.approx(0, abs=1e-6) for entry in alone)
    content, streamed = of_stream(sdk.chunks(text, **fields))
    assert content == choice.message.content
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]
    assert [entry.logprob for entry in streamed] == pytest.approx(
        [entry.logprob for entry in entries], abs=1e-3
    )


def test_a_forced_call_has_no_entries_streamed_and_whole(sdk: Sdk) -> None:
    fields = {"tools": [WEATHER], "tool_choice": "required", "logprobs": True, "top_logprobs": 2}
    choice = sdk.chat("Hello", max_tokens=300, **fields).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.logprobs.content == []
    content, streamed = of_stream(sdk.chunks("Hello", max_tokens=300, **fields))
    assert (content, streamed) == ("", [])
