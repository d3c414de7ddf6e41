"""A request's body as JSON, whatever was sent: every failure is a 400 in our words."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, NoReturn

import msgspec
from starlette.requests import Request

from mlxk.workers.protocol import FaultCode, fault

BIG_BYTES = 1024 * 1024
"""From here on decoding, checking and sending on take milliseconds each, under Python's lock whatever thread
they run in. Between them the streams have their turn."""

_DEEPEST = 64
"""Levels inside the free-form parts (tool schemas, template arguments). Far more than people write, far
less than any parser's recursion limit, the worker's included."""

_MOST_VALUES = 100_000
"""In one such part: they are looked at in the event loop, where everybody else waits."""


async def read_json(request: Request) -> dict[str, Any]:
    """Raises FaultError(INVALID_REQUEST); ClientDisconnect when the client left while sending."""
    raw = await request.body()
    if len(raw) < BIG_BYTES:
        return parse_object(raw)
    await asyncio.sleep(0)
    body = parse_object(raw)
    await asyncio.sleep(0)
    return body


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`. Raises FaultError(INVALID_REQUEST)."""
    if not raw.strip():
        raise fault(FaultCode.INVALID_REQUEST, "The body is empty: send a JSON object.")
    try:
        body = _decode(raw)
    except RecursionError:
        raise fault(FaultCode.INVALID_REQUEST, "The body's JSON is nested too deeply.") from None
    except ValueError as error:  # msgspec's, json's and UnicodeDecodeError are all ValueErrors
        raise fault(FaultCode.INVALID_REQUEST, f"The body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise fault(FaultCode.INVALID_REQUEST, "The body must be a JSON object.")
    return body


def _decode(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        if b"\\u" not in raw:
            raise
        # msgspec refuses a lone surrogate as malformed; JSON allows it. Read it the slow way, so that the
        # error names the field (and is `unsupported_stop_string` for a stop string).
        return json.loads(raw, parse_constant=_refuse_constant, parse_float=_finite)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def is_encodable(text: str) -> bool:
    """False for a lone surrogate: it has no UTF-8 and can neither travel to a worker nor be a token."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_text(text: str, param: str) -> str:
    """`text`, which must be encodable. Raises FaultError(INVALID_REQUEST)."""
    if not is_encodable(text):
        message = f"'{param}' holds a lone surrogate (half of a \\u pair), which is no character."
        raise fault(FaultCode.INVALID_REQUEST, message, param=param)
    return text


def check_free_form(value: Any, param: str) -> None:
    """JSON without a schema must survive the way to the worker: its depth, its texts, its integers.

    Raises FaultError(INVALID_REQUEST).
    """
    todo: list[tuple[Any, int]] = [(value, 1)]
    visited = 0
    while todo:
        value, depth = todo.pop()
        visited += 1
        if visited + len(todo) > _MOST_VALUES:
            message = f"'{param}' holds more than {_MOST_VALUES} values."
            raise fault(FaultCode.INVALID_REQUEST, message, param=param)
        if isinstance(value, str):
            check_text(value, param)
        elif isinstance(value, int):
            if not -(2**63) <= value < 2**64:
                message = f"'{param}' holds an integer of more than 64 bits."
                raise fault(FaultCode.INVALID_REQUEST, message, param=param)
        elif isinstance(value, dict | list):
            if depth > _DEEPEST:
                message = f"'{param}' is nested deeper than {_DEEPEST} levels."
                raise fault(FaultCode.INVALID_REQUEST, message, param=param)
            if isinstance(value, dict):
                todo.extend((key, depth) for key in value)
                value = value.values()
            todo.extend((inner, depth + 1) for inner in value)
