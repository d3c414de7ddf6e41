"""`response_format` over HTTP, with the openai client and real models: the reply parses and validates."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any

import openai
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from tests.server import Server

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["<think>", "b", 'q"']}, "maxItems": 3},
        "home": {"anyOf": [{"$ref": "#/$defs/home"}, {"type": "null"}]},
    },
    "required": ["name", "age", "tags", "home"],
    "additionalProperties": False,
    "$defs": {
        "home": {
            "type": "object",
            "properties": {"city": {"type": "string", "pattern": "^[A-Z][a-z]{1,6}$"}},
            "required": ["city"],
            "additionalProperties": False,
        }
    },
}
# All of bounded length: a model that is biased against the end of a string would write on for ever.
SCHEMAS: list[dict[str, Any]] = [
    PERSON,
    {"enum": ["yes", "no"]},
    {
        "type": "array",
        "items": {"type": "integer", "minimum": -5, "maximum": 500},
        "minItems": 1,
        "maxItems": 3,
    },
    {"anyOf": [{"type": "boolean"}, {"type": "string", "format": "date"}]},
    {
        "type": "object",
        "patternProperties": {"^k[0-9]{1,2}$": {"type": "string", "maxLength": 5}},
        "additionalProperties": False,
        "maxProperties": 2,
    },
]
PROMPTS = ["Hello", "Reply with JSON.", "Think: what is 2 + 3?"]
HARD: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.0},
    {"temperature": 1.5, "extra_body": {"top_k": 5, "min_p": 0.05}},
    {"temperature": 0, "extra_body": {"ignore_eos": True}},
    # The end of sequence is wanted everywhere, and all that JSON needs is not.
    {"temperature": 1.0, "logit_bias": {"633": 100, "1": -100, "90": -100, "92": -100}},
    {"temperature": 1.0, "frequency_penalty": 2.0, "presence_penalty": -2.0},
    {"temperature": 0, "extra_body": {"repetition_penalty": 2.0}},
    {"temperature": 1.0, "stop": ["\nHuman:", "</s>", "\n\n\n"]},
    {"temperature": 1.0, "logprobs": True, "top_logprobs": 20},
    {"temperature": 0.2, "top_p": 0.5},
]


@pytest.fixture(scope="module")
def client(real_server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{real_server.url}/v1", api_key="none", max_retries=0)


def schema_format(schema: dict[str, Any]) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def ask(
    client: openai.OpenAI, prompt: str, *, model: str = "tiny", stream: bool = False, **fields: Any
) -> Any:
    """(content, finish_reason)"""
    messages: Any = [{"role": "user", "content": prompt}]
    fields = {"max_tokens": 1000, **fields}
    if not stream:
        choice = client.chat.completions.create(model=model, messages=messages, **fields).choices[0]
        return choice.message.content, choice.finish_reason
    content, finish = "", None
    for chunk in client.chat.completions.create(model=model, messages=messages, stream=True, **fields):
        for one in chunk.choices:
            content += one.delta.content or ""
            finish = one.finish_reason or finish
    return content, finish


def check(schema: dict[str, Any], content: str, finish: str) -> None:
    assert finish == "stop"
    Draft202012Validator(schema).validate(json.loads(content))


def test_every_reply_validates_in_a_batch_with_free_ones(client: openai.OpenAI) -> None:
    """10 ways to sample x 5 schemas, streamed or not, eight at a time beside free replies."""
    jobs = list(itertools.product(range(len(HARD)), range(len(SCHEMAS))))
    free = ask(client, "Count from 1 to 5.", temperature=0)

    def one(job: tuple[int, tuple[int, int]]) -> None:
        n, (hard, shape) = job
        schema, prompt = SCHEMAS[shape], PROMPTS[n % 2]
        fields = {**HARD[hard], "seed": n, "response_format": schema_format(schema)}
        # Thoughts run free, and under such settings for long.
        no_thoughts = {"chat_template_kwargs": {"enable_thinking": False}}
        fields["extra_body"] = {**fields.get("extra_body", {}), **no_thoughts}
        check(schema, *ask(client, prompt, stream=bool(n % 2), **fields))
        if n % 5 == 0:
            assert ask(client, "Count from 1 to 5.", temperature=0) == free

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(one, enumerate(jobs)))) == 50


def test_a_stream_says_what_the_reply_says(client: openai.OpenAI) -> None:
    for prompt in PROMPTS[1:3]:
        fields = {"temperature": 0, "response_format": schema_format(PERSON)}
        assert ask(client, prompt, **fields) == ask(client, prompt, stream=True, **fields)


def test_the_same_with_a_model_that_was_never_trained(client: openai.OpenAI) -> None:
    for seed in range(2):
        fields = {"temperature": 1.0, "seed": seed, "response_format": schema_format(PERSON)}
        check(PERSON, *ask(client, "Hello", model="random", **fields))


def test_json_object(client: openai.OpenAI) -> None:
    content, finish = ask(client, "Reply with JSON.", temperature=0, response_format={"type": "json_object"})
    assert finish == "stop"
    assert isinstance(json.loads(content), dict)


class Mood(StrEnum):
    GOOD = "good"
    BAD = "bad"


class City(BaseModel):
    name: str = Field(max_length=8)
    people: int = Field(ge=0, le=10**7)


class Report(BaseModel):
    mood: Mood
    cities: list[City] = Field(max_length=2)
    remark: str | None = Field(max_length=6)


def test_pydantic_models_are_parsed(client: openai.OpenAI) -> None:
    for seed in range(3):
        reply = client.chat.completions.parse(
            model="tiny",
            messages=[{"role": "user", "content": "Hello"}],
            response_format=Report,
            temperature=1.0,
            seed=seed,
        )
        assert isinstance(reply.choices[0].message.parsed, Report)


def test_a_reply_that_is_cut_says_length(client: openai.OpenAI) -> None:
    _, finish = ask(client, "Hello", max_tokens=4, temperature=0, response_format=schema_format(PERSON))
    assert finish == "length"


def test_a_stop_string_of_the_client_cuts_as_it_always_does(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Hello"}],
        response_format=schema_format(PERSON),
        temperature=0,
        stop='"age"',
    )
    choice = reply.choices[0]
    assert choice.finish_reason == "stop"
    assert choice.model_extra is not None
    assert choice.model_extra["matched_stop"] == '"age"'
    assert '"age"' not in (choice.message.content or "")


def test_thoughts_come_first_and_stay_apart(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Think: what is 2 + 3?"}],
        response_format=schema_format({"type": "integer", "maximum": 99}),
        temperature=0,
    )
    message = reply.choices[0].message
    assert "add" in message.model_dump()["reasoning_content"]
    assert json.loads(message.content or "") <= 99


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "schema",
    [{"not": {}}, {"type": "array", "uniqueItems": True}, {"type": "strang"}, {"$ref": "http://localhost/x"}],
    ids=str,
)
def test_a_schema_that_cannot_be_followed_is_a_400(
    client: openai.OpenAI, schema: dict[str, Any], stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "Hello", stream=stream, response_format=schema_format(schema))
    assert caught.value.param == "response_format.json_schema.schema"
    assert "cannot be followed" in caught.value.message
    assert ask(client, "Count from 1 to 5.", temperature=0)[0] == "1, 2, 3, 4, 5"


def test_text_completions_have_no_response_format(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(
            model="tiny", prompt="Once", extra_body={"response_format": {"type": "json_object"}}
        )
    assert caught.value.param == "response_format"
