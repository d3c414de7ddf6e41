"""The OpenAPI document is whole: every reference resolves, every endpoint is there with its errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.client import Client


@pytest.fixture
def document(client: Client) -> dict[str, Any]:
    reply = client.get("/openapi.json")
    assert reply.status == 200
    return dict(reply.json())


def nodes(value: Any) -> Iterator[Any]:
    yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from nodes(child)


def test_every_endpoint_is_described(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.[01]\.\d", document["openapi"])
    assert document["info"]["title"] == "mlxk"
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert described >= {
        ("post", "/v1/chat/completions"),
        ("post", "/v1/completions"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{model}"),
        ("get", "/health"),
        ("get", "/ready"),
        ("get", "/pool"),
        ("post", "/pool/{model}/load"),
        ("delete", "/pool/{model}"),
    }


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    references = {node["$ref"] for node in nodes(document) if isinstance(node, dict) and "$ref" in node}
    assert references
    for reference in references:
        assert reference.startswith("#/")
        target: Any = document
        for step in reference[2:].split("/"):
            target = target[step]


def test_operations_have_distinct_ids_responses_and_their_path_s_parameters(document: dict[str, Any]) -> None:
    ids = []
    for path, methods in document["paths"].items():
        for operation in methods.values():
            ids.append(operation["operationId"])
            assert "200" in operation["responses"]
            assert "422" not in operation["responses"]
            assert all(response["description"] for response in operation["responses"].values())
            declared = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))
    assert len(set(ids)) == len(ids)


def test_the_bodies_of_completions_are_described(document: dict[str, Any]) -> None:
    for path, name in (("/v1/chat/completions", "ChatRequest"), ("/v1/completions", "CompletionRequest")):
        operation = document["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{name}"}
        fields = document["components"]["schemas"][name]["properties"]
        assert {"model", "temperature", "stop", "stop_token_ids", "stream", "keep_alive"} <= set(fields)
        assert {"400", "404", "413", "429", "503"} <= set(operation["responses"])


def test_the_pages_for_people_are_there(client: Client) -> None:
    assert client.get("/docs").status == 200
