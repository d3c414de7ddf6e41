"""The unmodified `openai` client, sync and async: what its users write works here."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.e2e.openai_sdk import Sdk, final_choice, joined
from tests.e2e.prompts import COUNT_10, COUNTED_10, GO_ON, GRASS, SKY, WENT_ON, assistant, user
from tests.server import Server

HELLO = "Hello! How can I help you?"
THINK = "Think: what is 2 + 3?"


# ------------------------------------------------------------------------------- chat


def test_chat_whole_and_streamed_are_equal(sdk: Sdk) -> None:
    whole = sdk.chat(COUNT_10)
    assert (whole.object, whole.model) == ("chat.completion", "tiny")
    assert whole.choices[0].message.content == COUNTED_10
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].finish_reason == "stop"
    assert "matched_stop" not in whole.choices[0].model_dump()
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = sdk.chunks(COUNT_10, stream_options={"include_usage": True})
    assert joined(chunks) == whole.choices[0].message.content
    roles = [chunk.choices[0].delta.role for chunk in chunks if chunk.choices]
    assert roles == ["assistant"] + [None] * (len(roles) - 1)
    assert len({chunk.id for chunk in chunks}) == 1
    last = chunks[-1]
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens_details.cached_tokens == whole.usage.prompt_tokens - 1


def test_usage_comes_on_the_final_chunk_unasked(sdk: Sdk) -> None:
    chunks = sdk.chunks("Hello")
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens > 0
    assert [chunk for chunk in chunks if not chunk.choices] == []


def test_a_conversation_in_content_parts(sdk: Sdk) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
        {"role": "user", "content": [{"type": "text", "text": SKY}]},
        assistant("Blue"),
        {"role": "user", "content": [{"type": "text", "text": "Answer in one word: "}, text_part(GRASS)]},
    ]
    assert sdk.chat(messages).choices[0].message.content == "Green"


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text.removeprefix("Answer in one word: ")}


def test_the_stream_helper_tells_what_happens(sdk: Sdk) -> None:
    manager = sdk.client.chat.completions.stream(model="tiny", messages=[user(COUNT_10)], temperature=0)
    with sdk.entered(manager) as stream:
        events = list(sdk.each(stream))
        completion = sdk.do(stream.get_final_completion())
    assert completion.choices[0].message.content == COUNTED_10
    assert "".join(event.delta for event in events if event.type == "content.delta") == COUNTED_10
    (done,) = [event for event in events if event.type == "content.done"]
    assert done.content == COUNTED_10


def test_raw_and_streaming_responses_carry_the_request_id(sdk: Sdk) -> None:
    chat = {"model": "tiny", "messages": [user("Hello")], "temperature": 0}
    sent = {"X-Request-ID": "from-the-sdk"}
    raw = sdk.do(sdk.client.chat.completions.with_raw_response.create(**chat, extra_headers=sent))
    assert raw.headers["X-Request-ID"] == raw.request_id == "from-the-sdk"
    assert sdk.do(raw.parse()).choices[0].message.content == HELLO
    manager = sdk.client.chat.completions.with_streaming_response.create(**chat, extra_headers=sent)
    with sdk.entered(manager) as response:
        assert response.headers["X-Request-ID"] == "from-the-sdk"
        assert HELLO in sdk.do(response.text())
    assert sdk.chat("Hello")._request_id


def test_the_lines_of_a_raw_stream(sdk: Sdk) -> None:
    chat = {"model": "tiny", "messages": [user("Hello")], "temperature": 0, "stream": True}
    with sdk.entered(sdk.client.chat.completions.with_streaming_response.create(**chat)) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        lines = [line for line in sdk.each(response.iter_lines()) if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith(("data: ", ": ")) for line in lines)


# ------------------------------------------------------------------------------- text


def test_completion_whole_and_streamed_are_equal(sdk: Sdk) -> None:
    whole = sdk.text(GO_ON, max_tokens=100)
    assert (whole.object, whole.choices[0].text) == ("text_completion", WENT_ON)
    chunks = list(sdk.each(sdk.text(GO_ON, max_tokens=100, stream=True)))
    assert "".join(chunk.choices[0].text for chunk in chunks) == WENT_ON
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_list_of_prompts_is_answered_in_its_order(sdk: Sdk) -> None:
    say = "Say: hi there and hello world!"
    reply = sdk.text([GO_ON, say], max_tokens=40, n=2)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    said = "\nhi there and hello world!"
    assert [choice.text for choice in reply.choices] == [WENT_ON, WENT_ON, said, said]
    chunks = list(sdk.each(sdk.text([GO_ON, say], max_tokens=40, n=2, stream=True)))
    for index, text in enumerate([WENT_ON, WENT_ON, said, said]):
        assert "".join(c.text for chunk in chunks for c in chunk.choices if c.index == index) == text


def test_token_ids_are_a_prompt(sdk: Sdk, real_server: Server) -> None:
    asked = {"model": "tiny", "prompt": GO_ON}
    tokenized = sdk.do(sdk.client.post(f"{real_server.url}/tokenize", cast_to=object, body=asked))
    tokens = tokenized["tokens"]
    assert tokenized["count"] == len(tokens)
    one = sdk.text(tokens, max_tokens=100)
    assert one.choices[0].text == WENT_ON
    assert one.usage.prompt_tokens == len(tokens)
    assert [choice.text for choice in sdk.text([tokens, tokens], max_tokens=100).choices] == [WENT_ON] * 2
    asked = {"model": "tiny", "tokens": tokens}
    shown = sdk.do(sdk.client.post(f"{real_server.url}/detokenize", cast_to=object, body=asked))
    assert shown["prompt"] == GO_ON


# --------------------------------------------------------------------------- stopping


@pytest.mark.parametrize(
    ("fields", "text", "matched"),
    [
        ({"stop": "6"}, "1  \n2  \n3  \n4  \n5  \n", "6"),
        ({"stop": ["8  \n9", "3  \n4  "]}, "1  \n2  \n", "3  \n4  "),
        ({"extra_body": {"stop_token_ids": [20]}}, "1  \n2  \n3  \n4  \n", 20),
        ({"stop": ["7  "], "extra_body": {"stop_token_ids": [21]}}, "1  \n2  \n3  \n4  \n5  \n", 21),
    ],
    ids=["string", "across-tokens", "token-id", "both"],
)
def test_what_stopped_a_reply_is_said(
    sdk: Sdk, fields: dict[str, Any], text: str, matched: str | int
) -> None:
    choice = sdk.chat(COUNT_10, **fields).choices[0]
    assert (choice.message.content, choice.finish_reason) == (text, "stop")
    assert choice.model_dump()["matched_stop"] == matched
    chunks = sdk.chunks(COUNT_10, **fields)
    assert joined(chunks) == text
    assert final_choice(chunks).model_dump()["matched_stop"] == matched


def test_what_stopped_a_streamed_completion_is_said(sdk: Sdk) -> None:
    whole = sdk.text(GO_ON, stop=["7\n8"]).choices[0]
    assert (whole.text, whole.model_dump()["matched_stop"]) == ("5\n6\n", "7\n8")
    chunks = list(sdk.each(sdk.text(GO_ON, stop=["7\n8"], stream=True)))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "5\n6\n"
    assert chunks[-1].choices[0].model_dump()["matched_stop"] == "7\n8"


def test_max_tokens_by_both_its_names(sdk: Sdk) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        reply = sdk.chat(COUNT_10, **{name: 4})
        assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 4)


# -------------------------------------------------------------------------- reasoning


def test_thoughts_are_apart_from_the_answer(sdk: Sdk) -> None:
    whole = sdk.chat(THINK)
    message = whole.choices[0].message
    assert message.content == "2 + 3 = 5"
    assert message.reasoning_content == "I add 3 to 2. That makes 5."
    assert 0 < whole.usage.completion_tokens_details.reasoning_tokens < whole.usage.completion_tokens
    chunks = sdk.chunks(THINK)
    assert joined(chunks) == message.content
    assert joined(chunks, "reasoning_content") == message.reasoning_content


def test_thinking_can_be_turned_off(sdk: Sdk) -> None:
    for fields in (
        {"reasoning_effort": "none"},
        {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
    ):
        reply = sdk.chat(THINK, **fields)
        assert "reasoning_content" not in reply.choices[0].message.model_dump()
        assert reply.usage.completion_tokens_details.reasoning_tokens == 0


# --------------------------------------------------------------------- models and rest


def test_models_are_listed_and_retrieved(sdk: Sdk) -> None:
    listed = {model.id: model for model in sdk.each(sdk.client.models.list())}
    assert {"tiny", "tiny-copy"} <= set(listed)
    tiny = sdk.do(sdk.client.models.retrieve("tiny"))
    assert (tiny.owned_by, tiny.object) == ("mlxk", "model")
    facts = tiny.model_dump()
    assert facts["context_length"] == 8192
    assert facts["capabilities"] == {"tools": True, "reasoning": True, "vision": False}
    with pytest.raises(openai.NotFoundError):
        sdk.do(sdk.client.models.retrieve("tinny"))


def test_extras_go_in_the_extra_body(sdk: Sdk) -> None:
    extra = {"keep_alive": "5m", "top_k": 5, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": False}
    reply = sdk.chat(COUNT_10, extra_body=extra)
    assert reply.choices[0].message.content == COUNTED_10


def test_fields_that_only_label_a_request_are_accepted(sdk: Sdk) -> None:
    labels = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    labels |= {"safety_identifier": "x", "prompt_cache_key": "y"}
    assert sdk.chat("Hello", **labels).choices[0].message.content == HELLO
