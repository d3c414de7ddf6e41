"""The OpenAPI document: FastAPI's own paths, with the bodies that our handlers read and write themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mlxk.api import answers
from mlxk.api.errors import ANSWERS
from mlxk.api.examples import Exchange
from mlxk.api.schemas import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest

_REF = "#/components/schemas/{model}"
_NULL = "\0null"
_REQUESTS: tuple[type[BaseModel], ...] = (
    ChatRequest,
    CompletionRequest,
    TokenizeRequest,
    DetokenizeRequest,
)
_OPEN_PATHS = ("/health", "/ready")
"""Need no key."""

_MEANING = {
    400: "What was sent cannot be honoured; the message says why, and `param` where.",
    401: "The API key is missing or wrong.",
    403: "The request comes from a web page, or for a name, that this server does not answer to.",
    404: "There is no such model. The message names the nearest.",
    408: "The request did not come in time; the connection is closed.",
    413: "The body is over `max_body_bytes`.",
    415: "The body is compressed.",
    429: "Too many wait already.",
    431: "The request's line and headers are too long; the connection is closed.",
    500: "A fault of the server's; its log says more under this X-Request-ID.",
    503: "It cannot be done now. `Retry-After` says when to try again.",
}
_OTHER_CODES = {
    400: ("host_missing", "invalid_http"),
    401: ("invalid_api_key",),
    403: ("host_not_allowed", "origin_not_allowed"),
    408: ("request_timeout",),
    413: ("request_too_large",),
    415: ("unsupported_content_encoding",),
    431: ("headers_too_large",),
    503: ("starting",),
}
"""Of errors that are no `Fault`."""
_EXAMPLES = {
    400: ("invalid_request_error", "'temperature': Input should be less than or equal to 2.", "temperature"),
    401: ("authentication_error", "Wrong or missing API key. Send 'Authorization: Bearer YOUR_KEY'.", None),
    403: ("permission_error", "This server answers to localhost only.", "Host"),
    404: ("invalid_request_error", "The model 'tinny' is not installed. Did you mean tiny?", "model"),
    408: ("invalid_request_error", "The request's body did not come in time.", None),
    413: ("invalid_request_error", "The request body is over 33554432 bytes (max_body_bytes).", None),
    415: ("invalid_request_error", "Send the body uncompressed, not with a Content-Encoding.", None),
    429: ("rate_limit_error", "Too many requests wait for 'tiny'. Try again in a moment.", None),
    431: ("invalid_request_error", "The request's head is over 65536 bytes.", None),
    500: ("server_error", "The server failed on this request. Its log says why.", None),
    503: ("server_error", "The model's process died. Try again.", None),
}
_FIRST_CODE = {400: "invalid_request", 429: "queue_full", 500: "internal_error", 503: "worker_died"}

_ID_HEADER = {
    "X-Request-ID": {
        "description": "The client's own, if it sent a sane one (letters, digits, `._-`, up to 128); else "
        "a new one. The server's log has it.",
        "schema": {"type": "string"},
    }
}
_RETRY_HEADER = {
    "Retry-After": {"description": "Whole seconds.", "schema": {"type": "integer", "minimum": 1}}
}
_KEY_HEADER = {"WWW-Authenticate": {"description": "`Bearer`", "schema": {"type": "string"}}}


def ref(model: type[BaseModel] | str) -> dict[str, Any]:
    return {"$ref": _REF.format(model=model if isinstance(model, str) else model.__name__)}


def json_body(schema: str, exchanges: Sequence[Exchange] = ()) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is `schema`. The handler parses it itself, because FastAPI's own
    parsing has other errors, other JSON and a second validation."""
    content: dict[str, Any] = {"schema": ref(schema)}
    if exchanges:
        content["examples"] = {
            one.name: {"summary": one.summary, "value": _without_nulls(one.request)} for one in exchanges
        }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def json_answer(
    model: type[BaseModel], example: Sequence[Exchange] | dict[str, Any], description: str = "The answer."
) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route, for its 200 as JSON: one example, or those of several exchanges."""
    content: dict[str, Any] = {"schema": ref(model)}
    if isinstance(example, dict):
        content["example"] = _without_nulls(example)
    else:
        content["examples"] = {
            one.name: {"summary": one.summary, "value": _without_nulls(one.answer)}
            for one in example
            if not isinstance(one.answer, str)
        }
    return {
        200: {"description": description, "content": {"application/json": content}, "headers": _ID_HEADER}
    }


def completion_answer(
    whole: type[BaseModel], chunk: type[BaseModel], exchanges: Sequence[Exchange]
) -> dict[int | str, dict[str, Any]]:
    """The 200 of a completion: whole, or with `stream` its server-sent events."""
    found = json_answer(
        whole,
        exchanges,
        "The whole answer; or with `stream` server-sent events, each `data: ` and a "
        f"`{chunk.__name__}`, then `data: [DONE]`. A failure after the "
        "first of them is an event with an `ErrorEnvelope`, and the last. "
        "Lines that begin with a colon keep the connection open while a model loads.",
    )
    # Without a schema: OpenAPI 3.1 has none for the events of a stream, and tools that know 3.2 would hold
    # each event against one for the whole.
    stream: dict[str, Any] = {}
    if texts := {
        one.name: {"summary": one.summary, "value": _without_nulls(one.answer)}
        for one in exchanges
        if isinstance(one.answer, str)
    }:
        stream["examples"] = texts
    found[200]["content"]["text/event-stream"] = stream
    return found


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: each status with our envelope, and the codes that it comes with."""
    return {status: _error_response(status) for status in statuses}


def _error_response(status: int) -> dict[str, Any]:
    codes = [code.value for code, answer in ANSWERS.items() if answer.status == status]
    codes += _OTHER_CODES.get(status, ())
    headers = dict(_ID_HEADER)
    if status in (429, 503):
        headers |= _RETRY_HEADER
    if status == 401:
        headers |= _KEY_HEADER
    error_type, message, param = _EXAMPLES[status]
    code = _FIRST_CODE.get(status, codes[0])
    example = {"error": {"message": message, "type": error_type, "param": param, "code": code}}
    return {
        "description": f"{_MEANING[status]} Codes: {', '.join(f'`{code}`' for code in codes)}.",
        "headers": headers,
        "content": {
            "application/json": {"schema": ref(answers.ErrorEnvelope), "example": _without_nulls(example)}
        },
    }


def install_openapi(app: FastAPI) -> None:
    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            models = [(model, "validation") for model in (*_REQUESTS, *answers.ANSWERS)]
            _, schemas = models_json_schema(models, ref_template=_REF)  # type: ignore[arg-type]
            components = made.setdefault("components", {})
            components.setdefault("schemas", {}).update(schemas["$defs"])
            for unused in ("HTTPValidationError", "ValidationError"):
                components["schemas"].pop(unused, None)
            components["securitySchemes"] = {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Only where the server was given API keys; not for /health and /ready.",
                }
            }
            made["security"] = [{"key": []}, {}]
            _complete(made["paths"])
            made["paths"] = _with_nulls(made["paths"])
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _without_nulls(value: Any) -> Any:
    """An example for FastAPI, which drops every null on its way: in an example it is a value."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return _NULL if value is None else value


def _with_nulls(value: Any) -> Any:
    """What `_without_nulls` was made of."""
    if isinstance(value, dict):
        return {key: _with_nulls(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_nulls(inner) for inner in value]
    return None if value == _NULL else value


def _complete(paths: dict[str, Any]) -> None:
    """What the doors answer, on every path; and without FastAPI's own answer to a wrong parameter."""
    for path, operations in paths.items():
        for method, operation in operations.items():
            responses = operation["responses"]
            responses.pop("422", None)
            statuses = [403, 408, 431]
            statuses += [] if path in _OPEN_PATHS else [401]
            statuses += [415] if method == "post" else []
            responses.update({str(status): _error_response(status) for status in statuses})
            operation["responses"] = dict(sorted(responses.items()))
            if path in _OPEN_PATHS:
                operation["security"] = []
            responses["200"].setdefault("headers", _ID_HEADER)
