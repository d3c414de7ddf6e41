"""GET /pool/events: what happens in the pool, as server-sent events."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlxk.api.disconnects import ClientGoneError, run_unless_gone
from mlxk.api.facade import Service
from mlxk.supervisor.events import Event, EventKind

PING_AFTER_S = 10.0
"""Silence after which a comment is sent. (The contract promises 15 s.)"""

EXAMPLE = (
    'id: 7\ndata: {"n":7,"time":1763700000.123,"kind":"load_progress","model":"tiny","worker":"w2",'
    '"done_bytes":1048576,"total_bytes":2097152}\n\n'
    'id: 8\ndata: {"n":8,"time":1763700000.456,"kind":"loaded","model":"tiny","worker":"w2","load_s":0.41,'
    '"memory_bytes":180355072}\n\n'
    ": ping\n\n"
)
DOCUMENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The stream. It ends when the server does, with an event of kind `server`. A client "
        "that reads too slowly gets an event of kind `lost` with the number of those it missed.",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
    }
}


class EventReply(Response):
    """Holds a subscription only while it is being sent."""

    media_type = "text/event-stream"

    def __init__(self, service: Service, *, recent: int, after: int | None) -> None:
        self._service = service
        self._recent = recent
        self._after = after
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientGoneError):
            await run_unless_gone(receive, self._run(send))

    async def _run(self, send: Send) -> None:
        bus = self._service.events
        with bus.subscribe() as listener:
            past = bus.recent(self._recent) if self._after is None else bus.recent(after=self._after)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            # A first comment: proxies and clients see at once that they are connected.
            await _send_body(send, b": mlxk\n\n" + b"".join(map(_frame, past)))
            said_at = time.monotonic()
            while not self._is_over():
                events = await listener.next(max(0.0, said_at + PING_AFTER_S - time.monotonic()))
                body = b"".join(map(_frame, events)) if events else b": ping\n\n"
                await _send_body(send, body)
                said_at = time.monotonic()
            await _send_body(send, b"".join(map(_frame, await listener.next(0))))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _is_over(self) -> bool:
        """The server waits for its open answers to end: this one must not be among them."""
        return self._service.is_closing() or self._service.events.closed


async def _send_body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _frame(event: Event) -> bytes:
    number = b"id: %d\n" % event["n"] if event["kind"] != EventKind.LOST else b""
    return number + b"data: " + msgspec.json.encode(event) + b"\n\n"
