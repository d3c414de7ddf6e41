"""One client's connection: uvicorn's protocol, with limits of time and size that it lacks.

Whoever sends slowly, never reads, vanishes or floods holds a connection here and nothing else, and not for
ever. `check` is called about once a second for each connection (`server.py`); nothing here costs a stream
more than an integer comparison.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import sys
from collections.abc import Callable
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from mlxk.api.errors import envelope
from mlxk.api.records import new_request_id
from mlxk.api.rules import DoorRules
from mlxk.api.unframed import knows_no_chunks, unframed
from mlxk.api.wire import Turn, Wire, keep_wire

MAX_HEAD_BYTES = 64 * 1024
"""Of request line and headers together. Browsers' cookies stay below; the parser itself has no limit."""
MIN_BODY_BYTES = 4096
"""A body that is not at its end brings at least so much in each `receive_timeout_s`."""
MAX_QUEUED = 32
"""Pipelined requests behind the one that is being answered."""
LINGER_S = 5.0
LINGER_BYTES = 4 * 1024 * 1024
"""A refused client may go on sending for so long and so much before it is cut off."""
_FRAME_BYTES = 8
"""Of chunked encoding, around each chunk: a client that sends byte by byte is slow, not hostile."""


class HttpConnection(HttpToolsProtocol):
    """Made for every connection; `rules` and `turn` are set by a subclass (`bound`)."""

    rules: DoorRules
    turn: Turn
    on_writable: Callable[[], None] | None = None
    """See `Wire`."""

    # -------------------------------------------------------------------- begin, end

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        now = self.loop.time()
        self._since = now
        """When the phase began: waiting for a head, a window of a body, an answer that does not drain."""
        self._head_bytes = 0
        self._raw_bytes = self._body_bytes = self._window_bytes = 0
        self._in_head = True
        self._in_body = False
        self._has_begun = False
        """The parser has seen the first byte of a head that is not complete."""
        self._n_complete = 0
        self._is_head_too_large = False
        self._is_refused = False
        """Answered without the application; the client may still be sending."""
        self._unsent_bytes = 0
        self._unsent_since = now
        self._running: RequestResponseCycle | None = None
        watch_peer(transport.get_extra_info("socket"), self.rules.send_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells only the request that came last: one before it would be answered for nobody.
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def shutdown(self) -> None:
        if self._is_refused:
            self.transport.close()
        else:
            super().shutdown()

    # ----------------------------------------------------------------------- parsing

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            self._raw_bytes += len(data)
            if self._raw_bytes > LINGER_BYTES:
                self.transport.close()
        if self._is_refused or self.transport.is_closing():
            return
        if self._in_head and self._head_bytes == 0:
            self._since = self.loop.time()  # the first bytes of a head
        self._raw_bytes += len(data)
        self._window_bytes += len(data)
        n_complete = self._n_complete
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._is_refused or self.transport.is_closing():
            return
        if self._in_head and self._n_complete == n_complete:
            self._head_bytes += len(data)
        if self._is_head_too_large or self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "headers_too_large", f"The request's head is over {MAX_HEAD_BYTES} bytes.")
        elif self._in_body and self._raw_bytes > 2 * MAX_HEAD_BYTES + self._body_bytes * _FRAME_BYTES:
            # Endless chunk extensions or trailers: the parser collects them.
            self._refuse(400, "invalid_http", "The chunked body has more around it than in it.")

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._feed_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _feed_without_upgrade(self, rest: bytes) -> None:
        """A wish for another protocol may be ignored (`curl --http2` has it), but the parser has stopped at
        it and would take the body for that protocol's words. A new one gets the head without the wish."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.send_400_response("")
            return
        kept = [one for one in self.headers if one[0] not in (b"upgrade", b"connection", b"http2-settings")]
        lines = [b"%b %b HTTP/1.1" % (method, self.url), *(b"%b: %b" % one for one in kept)]
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"\r\n".join([*lines, b"connection: close", b"", rest]))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._in_body, self._has_begun = True, False, True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer: those must not pass for headers that were checked
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self._head_bytes = self._raw_bytes = self._body_bytes = self._window_bytes = 0
        self._since = self.loop.time()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._is_head_too_large = size > MAX_HEAD_BYTES
        if self._is_head_too_large or len(self.pipeline) >= MAX_QUEUED:
            raise ConnectionError("refused")  # out of the parser; answered by `send_400_response`
        if self.parser.should_upgrade():
            return  # see `_feed_without_upgrade`
        self._take_host_of_target()
        super().on_headers_complete()
        if self.expect_100_continue:
            self.cycle.keep_alive = False  # after a refusal nobody knows whether the body will come

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_head, self._in_body, self._has_begun = True, False, False
        self._head_bytes = 0
        self._n_complete += 1
        self._since = self.loop.time()
        super().on_message_complete()

    def _take_host_of_target(self) -> None:
        """`GET http://NAME/path`: the name in it is the one that counts (RFC 9112, 3.2.2)."""
        _, found, rest = self.url.partition(b"://")
        if found and not self.url.startswith(b"/"):
            authority = rest.partition(b"/")[0].partition(b"?")[0]
            self.headers[:] = [(b"host", authority), *(one for one in self.headers if one[0] != b"host")]

    # ----------------------------------------------------------------------- answers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        keep_wire(cast(Scope, cycle.scope), Wire(self, cycle, self.turn))
        super()._start_asgi_task(cycle, unframed(cycle, app) if knows_no_chunks(cycle) else app)

    def send_400_response(self, msg: str) -> None:
        """The parser gave up."""
        if self._is_head_too_large:
            self._refuse(431, "headers_too_large", f"The request's head is over {MAX_HEAD_BYTES} bytes.")
        else:
            self._refuse(400, "invalid_http", "This is no valid HTTP request.")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer without the application, and close. A request that is being answered is cut off."""
        running = self._running
        if running is None or running.response_complete or not running.response_started:
            body = envelope("invalid_request_error", code, message)
            head = [
                STATUS_LINE[status],
                b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body),
                b"x-request-id: %b\r\nconnection: close\r\n" % new_request_id().encode("ascii"),
                b"\r\n",
            ]
            self.transport.write(b"".join(head) + body)
        for cycle in (running, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self._since, self._raw_bytes, self._is_refused = self.loop.time(), 0, True
        # A close while the client still sends would be a reset, and reset away the answer. Until it has read
        # that and leaves, what it sends is dropped.
        self.flow.resume_reading()
        with contextlib.suppress(OSError, RuntimeError):
            self.transport.write_eof()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    # -------------------------------------------------------------------------- time

    def check(self, now: float) -> None:
        """`now` is of the loop's clock."""
        if self._has_stopped_reading(now):
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self._is_refused:
            if now - self._since > LINGER_S:
                self.transport.close()
        elif self._in_body:
            self._check_body(now)
        elif self._in_head and self._is_idle():
            self._check_head(now)

    def _has_stopped_reading(self, now: float) -> bool:
        """What waits to be sent has not shrunk for long. (It grows only while little waits: see
        `pause_writing`.)"""
        unsent = self.transport.get_write_buffer_size()
        is_moving = unsent != self._unsent_bytes or (unsent == 0 and not self.transport.is_closing())
        if is_moving:
            self._unsent_bytes, self._unsent_since = unsent, now
        return now - self._unsent_since > self.rules.send_timeout_s

    @property
    def rests_since(self) -> float:
        """When it was last heard of, if it has been answered and asks for nothing now; else infinite."""
        has_begun = self._has_begun or self._head_bytes > 0 or not self._in_head
        is_answered = self._running is not None and self._running.response_complete
        is_resting = is_answered and not has_begun and not self.pipeline and not self.transport.is_closing()
        return self._since if is_resting else math.inf

    def _is_idle(self) -> bool:
        return self._running is None or self._running.response_complete

    def _check_head(self, now: float) -> None:
        late_s = now - self._since
        has_begun = self._has_begun or self._head_bytes > 0
        if has_begun and late_s > self.rules.receive_timeout_s:
            self._refuse(408, "request_timeout", "The request's head did not come in time.")
        elif self._running is None and not has_begun and late_s > self.timeout_keep_alive:
            self.transport.close()  # it never said a word (after an answer uvicorn has a timer for it)

    def _check_body(self, now: float) -> None:
        if self.flow.read_paused:  # by us: the application has not taken what there is
            self._since = now
        if now - self._since <= self.rules.receive_timeout_s:
            return
        if self.cycle.response_complete:
            self.transport.close()  # answered already (a 413): the rest has been dropped for long enough
        elif self._window_bytes < MIN_BODY_BYTES:
            self._refuse(408, "request_timeout", "The request's body did not come in time.")
        self._since, self._window_bytes = now, 0


def bound(rules: DoorRules) -> type[HttpConnection]:
    """The class that connections are made of."""
    return type("BoundConnection", (HttpConnection,), {"rules": rules, "turn": Turn()})


KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_PROBES = 60, 15, 4


def watch_peer(sock: socket.socket | None, unacknowledged_s: float) -> None:
    """Let the system notice that a client's machine has vanished (power, cable, sleep): by probes while
    nothing is sent, and by the missing acknowledgement while something is. Not for Unix sockets."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    if sys.platform == "darwin":
        tcp_keepalive, tcp_rxt_conndroptime = 0x10, 0x80  # of <netinet/tcp.h>
        options += [
            (socket.IPPROTO_TCP, tcp_keepalive, KEEPALIVE_IDLE_S),
            (socket.IPPROTO_TCP, tcp_rxt_conndroptime, max(1, int(unacknowledged_s))),
        ]
    else:
        options += [
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(unacknowledged_s * 1000))),
        ]
    options += [
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
    ]
    for level, name, value in options:
        with contextlib.suppress(OSError):  # it may be closed already
            sock.setsockopt(level, name, value)
