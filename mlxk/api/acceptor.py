"""Takes connections from the listening socket, and never the process's last descriptors (`descriptors.py`).

In place of the event loop's own server, which accepts all that wait, up to the limit, before it asks anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import Callable
from http import HTTPStatus

from mlxk.api.connections import HttpConnection
from mlxk.api.descriptors import http_ceiling
from mlxk.api.errors import envelope
from mlxk.api.records import new_request_id

ACCEPTED_AT_ONCE = 64
"""Then the streams have their turn."""
PAUSE_S = 0.25
"""Where the system gives no descriptor at all, the clients wait in its queue for so long."""
QUIET_S = 60.0
"""Between two words of the log about it."""
_NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = logging.getLogger("mlxk.api")


class Acceptor:
    """What uvicorn asks of a server: `close` and `wait_closed`."""

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], HttpConnection],
        make_room: Callable[[int], None] = lambda n_wanted: None,
    ) -> None:
        """Begins at once. `listener` listens and does not block; whoever made it closes it, after `close`.
        `make_room` is asked to close so many idle connections when few descriptors are left."""
        self._listener = listener
        self._make_protocol = make_protocol
        self._make_room = make_room
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._pause: asyncio.TimerHandle | None = None
        self._last_word = -QUIET_S
        self._n_refused = 0
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accepts nothing more. Idempotent."""
        self._is_closed = True
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def _accept(self) -> None:
        ceiling = http_ceiling()
        highest = 0
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno in _NONE_LEFT:
                    self._rest(error)
                    return
                continue  # it left while it waited
            highest = max(highest, sock.fileno())
            if sock.fileno() >= ceiling:
                self._refuse(sock)
                continue
            sock.setblocking(False)
            task = self._loop.create_task(self._open(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        few = min(ACCEPTED_AT_ONCE, ceiling // 8)
        if (n_wanted := highest + few - ceiling) > 0:
            self._make_room(n_wanted)  # before the next have to be refused

    async def _open(self, sock: socket.socket) -> None:
        try:
            _, connection = await self._loop.connect_accepted_socket(self._make_protocol, sock)
        except OSError:
            sock.close()  # it has left already
            return
        if self._is_closed:
            connection.shutdown()  # it was not known yet when all others were told

    def _refuse(self, sock: socket.socket) -> None:
        """Tell it and let it go, at once: its descriptor is of the reserve."""
        with sock, contextlib.suppress(OSError):
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.recv(65536)  # a close with unread bytes would be a reset, and reset away the answer
            sock.send(refusal())
            sock.shutdown(socket.SHUT_WR)
        self._n_refused += 1
        self._say("too many connections are open: %d have been refused", self._n_refused)

    def _rest(self, error: OSError) -> None:
        """An `accept` that fails would be asked for again at once, and again."""
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(PAUSE_S, self._go_on)
        self._say("connections cannot be accepted for now: %s", error.strerror)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._accept)

    def _say(self, text: str, fact: object) -> None:
        if (now := time.monotonic()) - self._last_word >= QUIET_S:
            self._last_word = now
            _log.warning(text, fact)


def refusal() -> bytes:
    """The answer to a connection too many."""
    body = envelope("server_error", "too_many_connections", "Too many connections are open. Try again soon.")
    status = HTTPStatus.SERVICE_UNAVAILABLE
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nx-request-id: {new_request_id()}\r\n"
        "connection: close\r\nretry-after: 1\r\n\r\n"
    )
    return head.encode("ascii") + body
