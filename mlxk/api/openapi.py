"""The OpenAPI document: FastAPI's own, with the bodies that our handlers read themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from mlxk.api.schemas import ChatRequest, CompletionRequest, ErrorEnvelope

_REF = "#/components/schemas/{model}"


def json_body(schema: str) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is `schema`. The handler parses it itself, because FastAPI's own
    parsing has other errors, other JSON and a second validation."""
    content = {"application/json": {"schema": {"$ref": _REF.format(model=schema)}}}
    return {"requestBody": {"required": True, "content": content}}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: each status with our envelope."""
    return {status: {"model": ErrorEnvelope} for status in statuses}


def install_openapi(app: FastAPI) -> None:
    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            bodies = [(ChatRequest, "validation"), (CompletionRequest, "validation")]
            _, schemas = models_json_schema(bodies, ref_template=_REF)  # type: ignore[arg-type]
            components = made.setdefault("components", {}).setdefault("schemas", {})
            components.update(schemas["$defs"])
            _drop_422(made["paths"])
            for unused in ("HTTPValidationError", "ValidationError"):
                components.pop(unused, None)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _drop_422(paths: dict[str, Any]) -> None:
    """FastAPI documents its own answer to a wrong parameter; ours is the 400."""
    for operations in paths.values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
