"""Log probabilities through the unmodified `openai` client, with real models."""

from __future__ import annotations

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
