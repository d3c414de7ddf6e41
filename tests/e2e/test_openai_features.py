"""The unmodified `openai` client, sync and async: tools, structured output, sampling, log probabilities."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tests.e2e.openai_sdk import Sdk, final_choice, joined
from tests.e2e.prompts import BERLIN, COUNT_10, COUNTED_10, GO_ON, SKY, WEATHER, WENT_ON, tool_result, user

CALL_BERLIN = "Call the weather tool for Berlin. Do not answer directly."
CALL_BOTH = "Call the weather tool for Berlin and Paris."
ANSWER = "It is 19 degrees and sunny."
TIME = {
    "type": "function",
    "function": {
        "name": "time",
        "description": "Tell the time.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"zone": {"type": "string", "enum": ["UTC", "CET"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}
STRICT_WEATHER = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
"""The async client's stream helper wants all of them strict."""
NAMED: dict[str, Any] = {"type": "function", "function": {"name": "time"}}


class Look(BaseModel):
    """What a color looks like."""

    color: Literal["Blue", "Green", "White"]
    brightness: int = Field(ge=0, le=9)
    warm: bool


class Weather(BaseModel):
    """Look up weather for a city."""

    city: str = Field(description="City name")


# ------------------------------------------------------------------------------ tools


def test_a_tool_s_whole_round(sdk: Sdk) -> None:
    """As agents do it: call the model, run what it asks for, until it answers."""
    messages: list[Any] = [user(CALL_BERLIN)]
    rounds = 0
    while True:
        rounds += 1
        choice = sdk.chat(messages, tools=[WEATHER]).choices[0]
        # As the client's own objects are sent back.
        messages.append(choice.message)
        if choice.finish_reason != "tool_calls":
            break
        assert choice.message.content is None
        for call in choice.message.tool_calls:
            assert (call.type, call.function.name) == ("function", "weather")
            assert json.loads(call.function.arguments) == {"city": "Berlin"}
            messages.append(tool_result({"id": call.id}, BERLIN))
    assert rounds == 2
    assert (choice.message.content, choice.message.tool_calls) == (ANSWER, None)


def test_streamed_calls_come_before_the_end(sdk: Sdk) -> None:
    whole = sdk.chat(CALL_BOTH, tools=[WEATHER]).choices[0]
    chunks = sdk.chunks(CALL_BOTH, tools=[WEATHER])
    calls: dict[int, dict[str, str]] = {}
    for chunk in chunks:
        for piece in chunk.choices[0].delta.tool_calls or ():
            call = calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
            call["id"] += piece.id or ""
            call["name"] += piece.function.name or ""
            call["arguments"] += piece.function.arguments or ""
    assert [json.loads(call["arguments"])["city"] for call in calls.values()] == ["Berlin", "Paris"]
    assert [call["name"] for call in calls.values()] == ["weather", "weather"]
    assert len({call["id"] for call in calls.values()} - {""}) == 2
    assert [call["arguments"] for call in calls.values()] == [
        call.function.arguments for call in whole.message.tool_calls
    ]
    assert final_choice(chunks).finish_reason == whole.finish_reason == "tool_calls"
    assert chunks[-1].choices[0].delta.tool_calls is None


def test_the_stream_helper_puts_calls_together(sdk: Sdk) -> None:
    manager = sdk.client.chat.completions.stream(
        model="tiny", messages=[user(CALL_BERLIN)], tools=[STRICT_WEATHER], temperature=0
    )
    with sdk.entered(manager) as stream:
        events = list(sdk.each(stream))
        (call,) = sdk.do(stream.get_final_completion()).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Berlin"}
    (done,) = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert (done.name, json.loads(done.arguments)) == ("weather", {"city": "Berlin"})


def test_a_pydantic_tool_is_parsed(sdk: Sdk) -> None:
    tool = openai.pydantic_function_tool(Weather, name="weather")
    completion = sdk.do(
        sdk.client.chat.completions.parse(
            model="tiny", messages=[user(CALL_BERLIN)], tools=[tool], temperature=0
        )
    )
    (call,) = completion.choices[0].message.tool_calls
    assert call.function.parsed_arguments == Weather(city="Berlin")


def test_no_call_where_none_is_allowed(sdk: Sdk) -> None:
    reply = sdk.chat(CALL_BERLIN, tools=[WEATHER], tool_choice="none").choices[0]
    assert (reply.finish_reason, reply.message.tool_calls) == ("stop", None)
    assert reply.message.content
    reply = sdk.chat("Hello", tools=[WEATHER], tool_choice="auto").choices[0]
    assert (reply.finish_reason, reply.message.tool_calls) == ("stop", None)


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_call_that_is_asked_for_comes(sdk: Sdk, choice: Any) -> None:
    """Though the model would rather say hello."""
    tools = [TIME] if choice == "required" else [STRICT_WEATHER, TIME]
    whole = sdk.chat("Hello", tools=tools, tool_choice=choice, parallel_tool_calls=False).choices[0]
    (call,) = whole.message.tool_calls
    assert call.function.name == "time"
    assert json.loads(call.function.arguments)["zone"] in ("UTC", "CET")
    manager = sdk.client.chat.completions.stream(
        model="tiny",
        messages=[user("Hello")],
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=False,
        temperature=0,
    )
    with sdk.entered(manager) as stream:
        streamed = sdk.do(stream.get_final_completion()).choices[0]
    assert streamed.message.tool_calls[0].function.arguments == call.function.arguments
    assert streamed.finish_reason == whole.finish_reason


def test_one_call_at_most_where_calls_are_not_parallel(sdk: Sdk) -> None:
    reply = sdk.chat(CALL_BOTH, tools=[WEATHER], parallel_tool_calls=False).choices[0]
    assert [json.loads(call.function.arguments)["city"] for call in reply.message.tool_calls] == ["Berlin"]
    assert reply.finish_reason == "tool_calls"


def test_a_malformed_call_is_text(sdk: Sdk) -> None:
    reply = sdk.chat("Make a broken tool call.", tools=[WEATHER]).choices[0]
    assert (reply.finish_reason, reply.message.tool_calls) == ("stop", None)
    assert "<tool_call>" in reply.message.content
    assert joined(sdk.chunks("Make a broken tool call.", tools=[WEATHER])) == reply.message.content


def test_a_tool_choice_without_its_tool_is_a_bad_request(sdk: Sdk) -> None:
    for fields in ({"tool_choice": "required"}, {"tool_choice": NAMED, "tools": [WEATHER]}):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.chat("Hello", **fields)
        assert caught.value.param == "tool_choice"


# ------------------------------------------------------------------- structured output


def test_parse_gives_the_object(sdk: Sdk) -> None:
    completion = sdk.do(
        sdk.client.chat.completions.parse(
            model="tiny", messages=[user(SKY)], response_format=Look, temperature=0, max_tokens=100
        )
    )
    assert isinstance(completion.choices[0].message.parsed, Look)
    assert completion.choices[0].finish_reason == "stop"


def test_a_streamed_object_is_the_same_as_the_whole_one(sdk: Sdk) -> None:
    fields = {"response_format": Look, "temperature": 0, "max_tokens": 100}
    manager = sdk.client.chat.completions.stream(model="tiny", messages=[user(SKY)], **fields)
    with sdk.entered(manager) as stream:
        streamed = sdk.do(stream.get_final_completion()).choices[0].message
    whole = sdk.do(sdk.client.chat.completions.parse(model="tiny", messages=[user(SKY)], **fields))
    assert isinstance(streamed.parsed, Look)
    assert streamed.content == whole.choices[0].message.content


def test_a_json_object(sdk: Sdk) -> None:
    reply = sdk.chat("Reply with JSON.", response_format={"type": "json_object"}, max_tokens=100)
    assert isinstance(json.loads(reply.choices[0].message.content), dict)


def test_a_schema_that_cannot_be_compiled_is_a_bad_request(sdk: Sdk) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "nonsense"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat("Hello", response_format=wanted)
    assert "nonsense" in caught.value.message
    assert caught.value.param.startswith("response_format")


# --------------------------------------------------------------------------- sampling


def test_a_seed_repeats_what_it_made(sdk: Sdk) -> None:
    fields: dict[str, Any] = {"temperature": 1.5, "seed": 11, "n": 3, "max_tokens": 24}
    first, again = (
        [choice.message.content for choice in sdk.chat("Tell me a long story.", **fields).choices]
        for _ in range(2)
    )
    assert first == again
    assert len(set(first)) > 1
    chunks = sdk.chunks("Tell me a long story.", **fields)
    assert [joined(chunks, index=index) for index in range(3)] == first


def test_a_bias_forbids_a_token(sdk: Sdk) -> None:
    assert "5" not in sdk.chat(COUNT_10, logit_bias={"20": -100}, max_tokens=40).choices[0].message.content


def test_penalties_are_taken(sdk: Sdk) -> None:
    plain = sdk.chat(COUNT_10).choices[0].message.content
    punished = sdk.chat(COUNT_10, frequency_penalty=2, presence_penalty=2, max_tokens=40).choices[0]
    assert plain == COUNTED_10
    assert punished.message.content != COUNTED_10


# -------------------------------------------------------------------------- logprobs


def test_log_probabilities_of_a_chat(sdk: Sdk) -> None:
    fields = {"logprobs": True, "top_logprobs": 3}
    whole = sdk.chat(COUNT_10, **fields).choices[0]
    tokens = whole.logprobs.content
    assert "".join(token.token for token in tokens) == whole.message.content == COUNTED_10
    for token in tokens:
        assert bytes(token.bytes).decode() == token.token
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (top.logprob for top in token.top_logprobs), reverse=True
        )
        # Greedy takes the likeliest.
        assert (len(token.top_logprobs), token.top_logprobs[0].token) == (3, token.token)
        assert token.logprob == token.top_logprobs[0].logprob <= 0
    chunks = sdk.chunks(COUNT_10, **fields)
    streamed = [
        token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content
    ]
    assert [token.token for token in streamed] == [token.token for token in tokens]
    for one, other in zip(streamed, tokens, strict=True):
        assert math.isclose(one.logprob, other.logprob, abs_tol=0.1)
    assert sdk.chat("Hello").choices[0].logprobs is None


def test_log_probabilities_of_a_completion(sdk: Sdk) -> None:
    whole = sdk.text(GO_ON, logprobs=2).choices[0]
    shown = whole.logprobs
    assert "".join(shown.tokens) == whole.text == WENT_ON
    assert len(shown.tokens) == len(shown.token_logprobs) == len(shown.top_logprobs)
    assert [WENT_ON[offset] for offset in shown.text_offset[:3]] == ["5", "\n", "6"]
    for token, top in zip(shown.tokens, shown.top_logprobs, strict=True):
        assert token in top
        assert len(top) == 2
    chunks = list(sdk.each(sdk.text(GO_ON, logprobs=2, stream=True)))
    streamed = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert [token for part in streamed for token in part.tokens] == shown.tokens
    assert [offset for part in streamed for offset in part.text_offset] == shown.text_offset
