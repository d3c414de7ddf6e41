"""A streamed answer on its way to a client."""

from __future__ import annotations

import logging
import time

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlxk.api.choices import Choices
from mlxk.api.disconnects import ClientGoneError, run_unless_gone
from mlxk.api.errors import INTERNAL_FAULT
from mlxk.api.facade import Service
from mlxk.api.records import CLIENT_GONE, RequestRecord, record_of
from mlxk.api.sse import StreamWriter
from mlxk.api.translate import Plan
from mlxk.api.usage import note_finish

COMMENT_AFTER_S = 10.0
"""Silence after which a comment line is sent. The first one commits the status 200: a failure that takes
longer to find than that is an event of the stream. (The contract promises 15 s.)"""

_log = logging.getLogger("mlxk.api")


class StreamReply(Response):
    """Submits the plan and streams its events. It holds nothing before it is called, so it cannot leak a
    job between the handler and the sending; and a failure before the first token leaves it as a
    `FaultError`, for which the usual handler sends the status."""

    media_type = "text/event-stream"

    def __init__(self, service: Service, plan: Plan) -> None:
        self._service = service
        self._plan = plan
        self.status_code = 200
        self.background = None
        # The second header keeps nginx from collecting the stream.
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        try:
            await run_unless_gone(receive, self._run(record, send))
        except ClientGoneError:
            record.finish = CLIENT_GONE

    async def _run(self, record: RequestRecord, send: Send) -> None:
        async with Choices(self._service, self._plan, record) as choices:
            writer = StreamWriter(self._plan, choices.model, int(time.time()))
            try:
                await self._pump(choices, writer, send)
            except Exception:
                if not writer.begun:
                    raise
                _log.exception("stream %s failed", record.id)
                await _send_body(send, writer.fail(INTERNAL_FAULT), more=False)
        if writer.failure is not None:
            record.finish = writer.failure.code.value
        else:
            note_finish(record, writer.finished)

    async def _pump(self, choices: Choices, writer: StreamWriter, send: Send) -> None:
        has_headers = False
        quiet_since = time.monotonic()
        while not writer.done:
            quiet_s = time.monotonic() - quiet_since
            frames = writer.write(await choices.next(max(0.0, COMMENT_AFTER_S - quiet_s)))
            now = time.monotonic()
            if not frames:
                if now - quiet_since < COMMENT_AFTER_S:
                    continue
                frames = writer.comment()
            if not has_headers:
                has_headers = True
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _send_body(send, frames, more=not writer.done)
            quiet_since = now


async def _send_body(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
