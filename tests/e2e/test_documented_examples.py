"""The examples of the OpenAPI document are sent as they stand: `tiny` answers what is written beside them."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from mlxk.api import examples
from tests.api.client import Client

EXCHANGES = [
    pytest.param(path, exchange, id=f"{path}-{exchange.name}")
    for path, exchanges in (
        ("/v1/chat/completions", examples.CHAT),
        ("/v1/completions", examples.COMPLETION),
        ("/tokenize", examples.TOKENIZE),
        ("/detokenize", examples.DETOKENIZE),
    )
    for exchange in exchanges
]
CHANGING = ("id", "created", "cached_tokens")
"""What differs from one time to the next."""


def steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: steady(inner) for key, inner in value.items() if key not in CHANGING}
    return [steady(inner) for inner in value] if isinstance(value, list) else value


def events(stream: str) -> list[Any]:
    frames = re.findall(r"^data: (.*)$", stream, flags=re.M)
    assert frames[-1] == "[DONE]"
    return [json.loads(frame) for frame in frames[:-1]]


def validator(document: dict[str, Any], schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema, "components": document["components"]})


@pytest.mark.parametrize(("path", "exchange"), EXCHANGES)
def test_an_example_is_true(client: Client, path: str, exchange: examples.Exchange) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"][path]["post"]
    documented = operation["requestBody"]["content"]["application/json"]
    assert documented["examples"][exchange.name]["value"] == exchange.request
    validator(document, documented["schema"]).validate(exchange.request)
    reply = client.post(path, exchange.request)
    assert reply.status == 200, reply.body
    content = operation["responses"]["200"]["content"]
    assert reply.headers["content-type"].partition(";")[0] in content
    if isinstance(exchange.answer, str):
        said, shown = events(reply.body.decode()), events(exchange.answer)
        name = "ChatCompletionChunk" if "chat" in path else "TextCompletionChunk"
        chunk = validator(document, {"$ref": f"#/components/schemas/{name}"})
        for event in (*said, *shown):
            chunk.validate(event)
        assert text_of(said) == text_of(shown)
        assert steady(said[-1]["choices"][0]) == steady(shown[-1]["choices"][0])
        assert steady(said[-1]["usage"]) == steady(shown[-1]["usage"])
    else:
        validator(document, content["application/json"]["schema"]).validate(reply.json())
        assert steady(reply.json()) == steady(exchange.answer)


def text_of(said: list[Any]) -> str:
    choices = [choice for event in said for choice in event["choices"]]
    return "".join(
        choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices
    )


def test_the_count_of_tokens_is_that_of_the_request(client: Client) -> None:
    for exchange in examples.CHAT:
        counted = client.post("/tokenize", {**exchange.request, "model": "tiny-copy"}).json()
        body = {**exchange.request, "model": "tiny-copy", "max_tokens": 1, "stream": False}
        usage = client.post("/v1/chat/completions", body).json()["usage"]
        assert counted["count"] == len(counted["tokens"]) == usage["prompt_tokens"]


def test_the_context_is_the_configured_one(client: Client) -> None:
    """`tiny-short` is cut to 96 tokens in the configuration; both places say so, loaded or not."""
    before = client.get("/v1/models/tiny-short").json()
    assert (
        client.post("/tokenize", {"model": "tiny-short", "prompt": "x" * 500}).json()["max_model_len"] == 96
    )
    after = client.get("/v1/models/tiny-short").json()
    assert before["context_length"] == after["context_length"] == 96
    assert (
        before["capabilities"] == after["capabilities"] == {"tools": True, "reasoning": True, "vision": False}
    )


def test_every_model_of_the_list_can_be_asked_for(client: Client) -> None:
    listed = client.get("/v1/models").json()["data"]
    assert {"tiny", "tiny-copy", "random"} <= {model["id"] for model in listed}
    for model in listed:
        found = client.get(f"/v1/models/{model['id']}").json()
        assert {**found, "loaded": None} == {**model, "loaded": None}
