"""The short way of a stream's middle to its client: one write for what came together, and no coroutine.

A token that is sent through ASGI passes a task's wake-up and seven coroutines of doors and frameworks, none
of which looks at the middle of an answer. So an answer's first and last words go that way, and what lies
between goes to the connection directly. Backpressure is uvicorn's: nothing is written while `is_full`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_KEY = "mlxk.wire"

Flush = Callable[[float], None]
"""Writes what is due. The argument is the time (monotonic). It must not raise."""


class Turn:
    """Whose streams have something to send: they are served in one go, when all frames that came together
    have been read."""

    def __init__(self) -> None:
        self._due: list[Flush] = []

    def add(self, flush: Flush) -> None:
        if not self._due:
            asyncio.get_running_loop().call_soon(self._serve)
        self._due.append(flush)

    def _serve(self) -> None:
        due, self._due = self._due, []
        now = time.monotonic()
        for flush in due:
            flush(now)


class Connection(Protocol):
    on_writable: Callable[[], None] | None
    """Called when the client has taken most of what waited for it."""


class Wire:
    """Of one answer, whose head has been sent and whose end has not."""

    __slots__ = ("_connection", "_cycle", "turn")

    def __init__(self, connection: Connection, cycle: RequestResponseCycle, turn: Turn) -> None:
        self._connection = connection
        self._cycle = cycle
        self.turn = turn

    @property
    def is_full(self) -> bool:
        """The client reads more slowly than it is sent to."""
        return self._cycle.flow.write_paused

    def write(self, body: bytes) -> None:
        """A part of the body that is not empty. Does nothing when the client has left."""
        cycle = self._cycle
        if not cycle.disconnected:
            # HTTP/1.0 knows no chunks (`unframed.py`).
            framed = b"%x\r\n%b\r\n" % (len(body), body) if cycle.chunked_encoding else body
            cycle.transport.write(framed)

    def on_writable(self, callback: Callable[[], None] | None) -> None:
        """Call it when the wire is no longer full. None: nobody waits for that."""
        self._connection.on_writable = callback


def keep_wire(scope: Scope, wire: Wire) -> None:
    scope[_KEY] = wire


def wire_of(scope: Scope) -> Wire | None:
    """None where the server is not ours."""
    wire = scope.get(_KEY)
    return wire if isinstance(wire, Wire) else None
