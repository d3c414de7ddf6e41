"""The OpenAPI document is whole: every reference resolves, every endpoint is there with its errors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
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
        ("post", "/tokenize"),
        ("post", "/detokenize"),
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


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "ChatRequest"),
        ("/v1/completions", "CompletionRequest"),
        ("/tokenize", "TokenizeRequest"),
        ("/detokenize", "DetokenizeRequest"),
    ],
)
def test_bodies_are_described_with_examples(document: dict[str, Any], path: str, name: str) -> None:
    operation = document["paths"][path]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert content["schema"] == {"$ref": f"#/components/schemas/{name}"}
    assert content["examples"]
    assert "model" in document["components"]["schemas"][name]["required"]
    statuses = {"200", "400", "401", "403", "404", "408", "413", "415", "429", "431", "500", "503"}
    assert statuses <= set(operation["responses"])


def test_every_answer_has_a_schema_an_example_and_its_headers(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["description"], path
            for status, response in operation["responses"].items():
                assert "X-Request-ID" in response["headers"], (path, status)
                assert ("Retry-After" in response["headers"]) == (status in ("429", "503")), (path, status)
                for media_type, content in response["content"].items():
                    if media_type == "application/json":
                        assert "schema" in content, (path, status)
                        assert "example" in content or "examples" in content, (path, status)


def test_the_codes_of_errors_are_told(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    for status, code in (
        ("400", "context_length_exceeded"),
        ("400", "unsupported_stop_string"),
        ("401", "invalid_api_key"),
        ("404", "model_not_found"),
        ("400", "invalid_http"),
        ("408", "request_timeout"),
        ("413", "request_too_large"),
        ("415", "unsupported_content_encoding"),
        ("431", "headers_too_large"),
        ("429", "queue_full"),
        ("503", "insufficient_memory"),
    ):
        assert f"`{code}`" in responses[status]["description"]


def test_keys_are_a_security_scheme_and_probes_need_none(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["security"] == [{"key": []}, {}]
    for path in ("/health", "/ready"):
        operation = document["paths"][path]["get"]
        assert operation["security"] == []
        assert "401" not in operation["responses"]


def test_examples_of_answers_are_of_their_schema(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for response in operation["responses"].values():
                content = response["content"].get("application/json", {})
                examples = [one["value"] for one in content.get("examples", {}).values()]
                examples += [content["example"]] if "example" in content else []
                for example in examples:
                    assert "\\u0000" not in json.dumps(example), "a null that was not put back"
                    validate(document, content["schema"], example, path)


def test_what_the_server_says_is_as_documented(client: Client, document: dict[str, Any]) -> None:
    client.text("org/fake-one", "go", max_tokens=1)
    for path in ("/health", "/ready", "/pool", "/v1/models"):
        check_answer(client, document, "GET", path, path)
    check_answer(client, document, "GET", "/v1/models/org%2Ffake-one", "/v1/models/{model}")
    check_answer(client, document, "GET", "/v1/models/nobody", "/v1/models/{model}")
    check_answer(client, document, "POST", "/pool/org/fake-two/load", "/pool/{model}/load")
    check_answer(client, document, "DELETE", "/pool/org/fake-two", "/pool/{model}")
    check_answer(client, document, "DELETE", "/pool/fake", "/pool/{model}")


def check_answer(client: Client, document: dict[str, Any], method: str, path: str, name: str) -> None:
    reply = client.request(method, path)
    response = document["paths"][name][method.lower()]["responses"][str(reply.status)]
    validate(document, response["content"]["application/json"]["schema"], reply.json(), path)


def validate(document: dict[str, Any], schema: dict[str, Any], value: Any, where: str) -> None:
    whole = {**schema, "components": document["components"]}
    errors = [error.message for error in jsonschema.Draft202012Validator(whole).iter_errors(value)]
    assert not errors, (where, errors, value)


def test_the_page_for_people_needs_no_other_machine(client: Client, document: dict[str, Any]) -> None:
    reply = client.get("/docs")
    page = reply.body.decode()
    assert reply.status == 200
    assert "<script" not in page
    assert "http" not in re.sub(r"<pre>.*?</pre>|invalid_http", "", page, flags=re.S)
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    for path in document["paths"]:
        assert f" {path}<" in page
    for name in document["components"]["schemas"]:
        assert f"id='{name}'" in page
    targets = set(re.findall(r"id='([^']+)'", page))
    assert set(re.findall(r"href='#([^']+)'", page)) <= targets
