"""`tool_choice`, `parallel_tool_calls` and `strict` over HTTP, with the openai client and `tiny`."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from jsonschema import Draft202012Validator

from tests.server import Server

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 10}},
    "required": ["city"],
    "additionalProperties": False,
}
SUM = {
    "type": "object",
    "properties": {
        "numbers": {
            "type": "array",
            "items": {"type": "integer", "maximum": 99},
            "minItems": 2,
            "maxItems": 3,
        }
    },
    "required": ["numbers"],
    "additionalProperties": False,
}
SCHEMAS = {"weather": CITY, "sum": SUM}


def tool(name: str, **extra: Any) -> Any:
    described = {"name": name, "description": "Look up weather for a city.", "parameters": SCHEMAS[name]}
    return {"type": "function", "function": {**described, **extra}}


TOOLS = [tool("weather"), tool("sum")]
NAMED = {"type": "function", "function": {"name": "sum"}}


@pytest.fixture(scope="module")
def client(real_server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{real_server.url}/v1", api_key="none", max_retries=0)


def choice_of(client: openai.OpenAI, prompt: str, *, model: str = "tiny", **fields: Any) -> Any:
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        **{"tools": TOOLS, "temperature": 0, "max_tokens": 3000, **fields},
    )
    return reply.choices[0]


def streamed_calls(client: openai.OpenAI, prompt: str, **fields: Any) -> tuple[list[list[str]], str | None]:
    calls: dict[int, list[str]] = {}
    finish = None
    for chunk in client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": prompt}],
        stream=True,
        **{"tools": TOOLS, "temperature": 0, **fields},
    ):
        for one in chunk.choices:
            finish = one.finish_reason or finish
            for call in one.delta.tool_calls or ():
                known = calls.setdefault(call.index, ["", ""])
                known[0] += call.function.name or ""
                known[1] += call.function.arguments or ""
    return [calls[index] for index in sorted(calls)], finish


def check(choice: Any, names: tuple[str, ...] = ("weather", "sum")) -> int:
    assert choice.finish_reason == "tool_calls"
    for call in choice.message.tool_calls:
        assert call.function.name in names
        Draft202012Validator(SCHEMAS[call.function.name]).validate(json.loads(call.function.arguments))
    assert not choice.message.content
    return len(choice.message.tool_calls)


@pytest.mark.parametrize("model", ["tiny", "random"])
def test_required_calls_at_least_one_tool_with_valid_arguments(client: openai.OpenAI, model: str) -> None:
    def one(seed: int) -> int:
        fields = {
            "temperature": 1.0,
            "seed": seed,
            "tool_choice": "required",
            "parallel_tool_calls": seed % 2 == 0 and model == "tiny",  # an untrained model calls 16 times
            "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
        }
        return check(choice_of(client, "Hello", model=model, **fields))

    with ThreadPoolExecutor(4) as pool:
        assert min(pool.map(one, range(8))) >= 1


def test_a_named_tool_is_the_one_that_is_called(client: openai.OpenAI) -> None:
    for prompt in ("Hello", "What is the weather in Rome?"):
        check(choice_of(client, prompt, tool_choice=NAMED), ("sum",))


def test_a_stream_makes_the_same_calls(client: openai.OpenAI) -> None:
    for wanted in ("required", NAMED):
        fields = {"tool_choice": wanted, "parallel_tool_calls": False}
        choice = choice_of(client, "What is the weather in Rome?", **fields)
        whole = [[call.function.name, call.function.arguments] for call in choice.message.tool_calls]
        assert streamed_calls(client, "What is the weather in Rome?", **fields) == (whole, "tool_calls")


def test_thoughts_come_before_a_required_call(client: openai.OpenAI) -> None:
    choice = choice_of(client, "Think: what is 4 + 4?", tool_choice="required", parallel_tool_calls=False)
    assert check(choice) == 1
    assert "add" in choice.message.model_dump()["reasoning_content"]


def test_without_parallel_calls_the_reply_ends_with_its_first(client: openai.OpenAI) -> None:
    two = "What is the weather in Berlin and Paris?"
    weather = [tool("weather")]
    assert check(choice_of(client, two, tools=weather)) == 2
    assert check(choice_of(client, two, tools=weather, parallel_tool_calls=False)) == 1
    calls, finish = streamed_calls(client, two, tools=weather, parallel_tool_calls=False)
    assert (len(calls), finish) == (1, "tool_calls")
    for seed in range(5):
        fields = {"tool_choice": "required", "parallel_tool_calls": False, "temperature": 1.0, "seed": seed}
        assert check(choice_of(client, two, **fields)) == 1


def test_strict_holds_a_call_and_nothing_else(client: openai.OpenAI) -> None:
    strict = [tool("weather", strict=True)]
    assert check(choice_of(client, "What is the weather in Rome?", tools=strict)) == 1
    assert choice_of(client, "Count from 1 to 5.", tools=strict).message.content == "1, 2, 3, 4, 5"
    # Unconstrained, this one writes a call that is no JSON.
    broken = choice_of(client, "Make a broken tool call.", tools=strict)
    for call in broken.message.tool_calls or ():
        Draft202012Validator(CITY).validate(json.loads(call.function.arguments))


def test_json_or_a_call(client: openai.OpenAI) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": SUM}}
    choice = choice_of(client, "What is the weather in Rome?", response_format=wanted)
    assert check(choice) == 1
    choice = choice_of(client, "Reply with JSON.", response_format=wanted, temperature=1.0, seed=1)
    if choice.finish_reason == "stop":
        Draft202012Validator(SUM).validate(json.loads(choice.message.content))
    else:
        assert choice.finish_reason == "tool_calls"


def test_none_hides_the_tools_and_allowed_tools_hide_the_others(client: openai.OpenAI) -> None:
    assert not choice_of(client, "What is the weather in Rome?", tool_choice="none").message.tool_calls
    only_sum = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
    check(choice_of(client, "What is the weather in Rome?", tool_choice=only_sum), ("sum",))


def test_parameters_that_cannot_be_followed_are_a_400(client: openai.OpenAI) -> None:
    bad = tool("weather", parameters={"type": "object", "properties": {"x": {"not": {}}}})
    with pytest.raises(openai.BadRequestError) as caught:
        choice_of(client, "Hello", tools=[tool("sum"), bad], tool_choice="required")
    assert caught.value.param == "tools[1].function.parameters"
    # Without force nothing is promised about them.
    assert choice_of(client, "Count from 1 to 5.", tools=[bad]).message.content == "1, 2, 3, 4, 5"
