"""What can be told of the application without a server behind it."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI

from mlxk.api.models import model_json
from mlxk.api.openapi import error_responses, install_openapi, json_body


def test_a_model_in_openai_s_shape() -> None:
    facts = {
        "name": "mlx-community/Qwen3",
        "created": 1_700_000_000.9,
        "context_length": 8192,
        "loaded": False,
        "capabilities": ("chat", "tools"),
        "healthy": True,
    }
    assert model_json(facts) == {
        "id": "mlx-community/Qwen3",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "mlx-community",
        "context_length": 8192,
        "loaded": False,
        "capabilities": {"tools": True, "reasoning": False, "vision": False},
    }
    assert model_json({**facts, "name": "tiny"})["owned_by"] == "mlxk"


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(_references(value) for value in node.values()))
    return set[str]().union(*(_references(value) for value in node)) if isinstance(node, list) else set()


@pytest.mark.parametrize("schema", ["ChatRequest", "CompletionRequest"])
def test_the_openapi_document_describes_the_bodies(schema: str) -> None:
    app = FastAPI(title="t")

    @app.post("/x/{size}", openapi_extra=json_body(schema), responses=error_responses(400))
    async def post(size: int) -> None: ...

    install_openapi(app)
    document = app.openapi()
    operation = document["paths"]["/x/{size}"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": f"#/components/schemas/{schema}"}
    assert set(operation["responses"]) == {
        "200",
        "400",
        "401",
        "403",
        "408",
        "415",
        "431",
    }  # the doors' are on every path
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert _references(document) <= known
    assert "temperature" in document["components"]["schemas"][schema]["properties"]
