"""Failures as HTTP: one table from fault code to status, and OpenAI's envelope around each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from mlxk.api.disconnects import ClientGoneError
from mlxk.api.nearby import nearby
from mlxk.api.records import CLIENT_GONE, NO_ANSWER, record_of
from mlxk.workers.protocol import Fault, FaultCode, FaultError

_LONGEST_MESSAGE = 4000
"""Messages quote what a client sent or a worker logged; an answer stays an answer."""


class _Answer(NamedTuple):
    status: int
    type: str
    retry_after_s: float | None = None
    """When to try again, if the fault itself does not know. 429 and 503 always say."""


_TYPES = {401: "authentication_error", 403: "permission_error"}
"""Of errors that are not faults. Some clients (litellm) go by the type before the status: with
`invalid_request_error` a wrong key would be a bad request for them."""

_BAD_REQUEST = _Answer(400, "invalid_request_error")

ANSWERS: Mapping[FaultCode, _Answer] = {
    FaultCode.INVALID_REQUEST: _BAD_REQUEST,
    FaultCode.UNSUPPORTED_PARAMETER: _BAD_REQUEST,
    FaultCode.UNSUPPORTED_STOP_STRING: _BAD_REQUEST,
    FaultCode.TEMPLATE_ERROR: _BAD_REQUEST,
    FaultCode.CONTEXT_LENGTH_EXCEEDED: _BAD_REQUEST,
    FaultCode.AMBIGUOUS_MODEL: _BAD_REQUEST,
    FaultCode.MODEL_NOT_FOUND: _Answer(404, "invalid_request_error"),
    # Not a 5xx: clients would repeat a request that only `mlxk pull` can help.
    FaultCode.MODEL_UNHEALTHY: _BAD_REQUEST,
    FaultCode.QUEUE_FULL: _Answer(429, "rate_limit_error", 1.0),
    FaultCode.INSUFFICIENT_MEMORY: _Answer(503, "server_error", 10.0),
    FaultCode.MODEL_LOAD_FAILED: _Answer(503, "server_error", 30.0),
    FaultCode.MODEL_FAILED: _Answer(503, "server_error", 30.0),
    FaultCode.MODEL_STOPPED: _Answer(503, "server_error", 1.0),
    FaultCode.WORKER_DIED: _Answer(503, "server_error", 1.0),
    FaultCode.SHUTTING_DOWN: _Answer(503, "server_error", 5.0),
    FaultCode.CANCELLED: _Answer(503, "server_error", 1.0),
    FaultCode.DEADLINE_EXCEEDED: _Answer(503, "server_error", 10.0),
    FaultCode.ENGINE_ERROR: _Answer(500, "server_error"),
    FaultCode.INTERNAL: _Answer(500, "server_error"),
}

INTERNAL_FAULT = Fault(
    FaultCode.INTERNAL, "The server failed on this request. Its log says why, under this X-Request-ID."
)

SHUTDOWN_FAULT = Fault(FaultCode.SHUTTING_DOWN, "The server is shutting down.", retryable=True)


def envelope(error_type: str, code: str | None, message: str, param: str | None = None) -> bytes:
    """`{"error": {...}}` as JSON. Never raises: texts of a client may hold lone surrogates."""
    error = {"message": _printable(message), "type": error_type, "param": param, "code": code}
    if param is not None:
        error["param"] = _printable(param)
    return msgspec.json.encode({"error": error})


def fault_envelope(fault: Fault) -> bytes:
    return envelope(ANSWERS[fault.code].type, fault.code.value, fault.message, fault.param)


def _printable(text: str) -> str:
    if len(text) > _LONGEST_MESSAGE:
        text = text[:_LONGEST_MESSAGE] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")


def error_response(
    status: int,
    code: str,
    message: str,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error that is not a `Fault`: routes, doors, readiness."""
    error_type = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    body = envelope(error_type, code, message, param)
    return Response(body, status, headers, media_type="application/json")


def fault_response(fault: Fault) -> Response:
    answer = ANSWERS[fault.code]
    headers = {}
    retry_after_s = fault.retry_after_s if fault.retry_after_s is not None else answer.retry_after_s
    if answer.status in (429, 503) and retry_after_s is not None:
        # Whole seconds, and never 0: that would be a busy loop.
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return Response(fault_envelope(fault), answer.status, headers, media_type="application/json")


# ------------------------------------------------------------- exception handlers


def install_error_handlers(app: FastAPI) -> None:
    """Every exception that a route may raise on purpose. Any other is `AccessDoor`'s business."""
    app.add_exception_handler(FaultError, _on_fault)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_query)
    app.add_exception_handler(ClientGoneError, _on_client_gone)
    app.add_exception_handler(ClientDisconnect, _on_client_gone)


async def _on_fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, FaultError)
    record_of(request.scope).finish = error.fault.code.value
    return fault_response(error.fault)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    route = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        meant = nearby(request.app.state.http_meter.routes, request.method, request.url.path)
        advice = f"Did you mean {meant}?" if meant else "GET /docs lists what there is."
        return error_response(404, "not_found", f"There is no {route}. {advice}")
    if error.status_code == 405:
        message = f"{route} is not allowed. The Allow header says what is."
        return error_response(405, "method_not_allowed", message, headers=error.headers)
    return error_response(error.status_code, "http_error", str(error.detail), headers=error.headers)


async def _on_invalid_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    param = str(first["loc"][-1])
    return error_response(400, FaultCode.INVALID_REQUEST.value, f"'{param}': {first['msg']}", param=param)


async def _on_client_gone(request: Request, error: Exception) -> Response:
    # Nobody reads it: the server drops what is sent to a closed connection. 499 is for the access log.
    record_of(request.scope).finish = CLIENT_GONE
    return Response(status_code=NO_ANSWER)
