"""A streamed answer on its way to a client."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlxk.api.choices import Batch, Choices
from mlxk.api.disconnects import ClientGoneError, run_unless_gone
from mlxk.api.errors import INTERNAL_FAULT
from mlxk.api.facade import Service
from mlxk.api.records import CLIENT_GONE, RequestRecord, record_of
from mlxk.api.sse import StreamWriter
from mlxk.api.translate import Plan
from mlxk.api.usage import note_finish
from mlxk.api.wire import Wire, wire_of

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
            await run_unless_gone(receive, self._run(record, send, wire_of(scope)))
        except ClientGoneError:
            record.finish = CLIENT_GONE

    async def _run(self, record: RequestRecord, send: Send, wire: Wire | None) -> None:
        async with Choices(self._service, self._plan, record) as choices:
            writer = StreamWriter(self._plan, choices.model, int(time.time()))
            try:
                await self._pump(choices, writer, send, wire)
            except Exception:
                if not writer.begun:
                    raise
                _log.exception("stream %s failed", record.id)
                await _send_body(send, writer.fail(INTERNAL_FAULT), more=False)
        if writer.failure is not None:
            record.finish = writer.failure.code.value
        else:
            note_finish(record, writer.finished)

    async def _pump(self, choices: Choices, writer: StreamWriter, send: Send, wire: Wire | None) -> None:
        has_headers = False
        quiet_since = time.monotonic()
        # One prompt: whatever is heard first is enough, and should leave at once.
        early = await choices.first_words(COMMENT_AFTER_S) if self._plan.n_prompts > 1 else []
        while not writer.done:
            quiet_s = time.monotonic() - quiet_since
            frames = writer.write(early or await choices.next(max(0.0, COMMENT_AFTER_S - quiet_s)))
            early = []
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
            if wire is not None and not writer.done:
                await _send_body(send, await Middle(choices, writer, wire).stream(), more=False)


class Middle:
    """What lies between the first and the last words of a streamed answer: written when it comes, by the
    event loop's callback that read it. Its task sleeps until the end."""

    def __init__(self, choices: Choices, writer: StreamWriter, wire: Wire) -> None:
        self._choices = choices
        self._writer = writer
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._last_words: asyncio.Future[bytes] = self._loop.create_future()
        self._wrote_at = time.monotonic()
        self._timer = self._loop.call_later(self._sleep_s(self._wrote_at), self._on_time)

    async def stream(self) -> bytes:
        """Returns the last frames, which are not sent yet. Raises what the writer raises."""
        self._choices.listen(self._on_events)
        self._wire.on_writable(self._on_events)
        self._on_events()  # something may have come before anybody listened
        try:
            return await self._last_words
        finally:
            self._choices.listen(None)
            self._wire.on_writable(None)
            self._timer.cancel()

    def _on_events(self) -> None:
        self._wire.turn.add(self._flush)

    def _flush(self, now: float) -> None:
        # Of a slow reader the events stay in the mailbox, which merges them.
        if not self._last_words.done() and not self._wire.is_full:
            self._write(self._choices.take_now(), now)

    def _write(self, batch: Batch, now: float) -> None:
        try:
            frames = self._writer.write(batch)
            if self._writer.done:
                self._last_words.set_result(frames)
            elif frames:
                self._wire.write(frames)
                self._wrote_at = now
        except Exception as error:
            self._last_words.set_exception(error)

    def _on_time(self) -> None:
        """One timer a stream, not one a token: it looks how long it is silent already, and sleeps on."""
        if self._last_words.done():
            return
        now = time.monotonic()
        if self._choices.left_s <= 0:
            self._write(self._choices.overdue(), now)
            return
        if now - self._wrote_at >= COMMENT_AFTER_S:
            if not self._wire.is_full:
                self._wire.write(self._writer.comment())
            self._wrote_at = now
        self._timer = self._loop.call_later(self._sleep_s(now), self._on_time)

    def _sleep_s(self, now: float) -> float:
        return max(0.0, min(self._wrote_at + COMMENT_AFTER_S - now, self._choices.left_s))


async def _send_body(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
