"""The outermost door: a request's id, its line in the access log, and the net under every exception."""

from __future__ import annotations

import asyncio
import logging
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlxk.api.errors import INTERNAL_FAULT, SHUTDOWN_FAULT, fault_response
from mlxk.api.http_meter import HttpMeter
from mlxk.api.records import CLIENT_GONE, RequestRecord, keep_record, new_request_id

_access_log = logging.getLogger("mlxk.access")
_log = logging.getLogger("mlxk.api")

QUIET_PATHS = frozenset({"/", "/health", "/ready", "/metrics"})
"""Asked every few seconds by machines: a good answer is a line at DEBUG, any other at INFO like all else."""
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_LONGEST_PATH = 200


def request_id_from(scope: Scope) -> str:
    """The client's X-Request-ID if it is one sane value, else a new one. It is echoed and logged: a line
    break or a megabyte in it must not be."""
    sent = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(sent) == 1 and _SANE_ID.fullmatch(sent[0]):
        return str(sent[0].decode("ascii"))
    return new_request_id()


class AccessDoor:
    """ASGI middleware, before all others.

    It takes the place of Starlette's handler for `Exception`: that one answers outside of all middleware,
    so its 500 would lack X-Request-ID, and then raises again, so that the trace is logged twice.
    """

    def __init__(self, app: ASGIApp, meter: HttpMeter | None = None) -> None:
        self.app = app
        self._meter = meter or HttpMeter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = RequestRecord(request_id_from(scope))
        keep_record(scope, record)
        self._meter.begin()
        try:
            await self._answer(scope, receive, send, record)
        finally:
            if record.status == 0 and record.finish is None:
                record.finish = CLIENT_GONE
            self._meter.end(scope, record)
            log_request(scope, record)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, record: RequestRecord) -> None:
        id_header = (b"x-request-id", record.id.encode("ascii"))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), id_header]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # Only the server cancels a request: it is being stopped and waited long enough. It would log
            # a trace for each.
            record.finish = SHUTDOWN_FAULT.code.value
            if record.status == 0:
                await fault_response(SHUTDOWN_FAULT)(scope, receive, send_with_id)
        except Exception:
            _log.exception("request %s failed: %s %s", record.id, scope["method"], _path(scope))
            record.finish = INTERNAL_FAULT.code.value
            if record.status == 0:
                await fault_response(INTERNAL_FAULT)(scope, receive, send_with_id)


def log_request(scope: Scope, record: RequestRecord) -> None:
    is_quiet = scope["path"] in QUIET_PATHS and record.final_status < 400
    level = logging.DEBUG if is_quiet else logging.INFO
    if _access_log.isEnabledFor(level):
        method, path = scope["method"], _path(scope)
        _access_log.log(level, "%s", record.line(method, path), extra={"facts": record.facts(method, path)})


def _path(scope: Scope) -> str:
    """As sent, still percent-encoded: a decoded line break would forge a line of the log."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "backslashreplace")
    path = raw.decode("ascii", "backslashreplace")
    return path if len(path) <= _LONGEST_PATH else path[:_LONGEST_PATH] + "…"
