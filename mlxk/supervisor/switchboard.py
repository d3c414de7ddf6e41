"""The front's ROUTER socket: frames to workers, and each request's events to its mailbox.

Nothing else sits between a worker's frame and the SSE stream, so this module is written for speed: no task
per message, one callback that drains the socket.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import zmq

from mlxk.supervisor.mailbox import Mailbox
from mlxk.workers.protocol import (
    Deltas,
    Failed,
    Fault,
    FromWorker,
    LastWord,
    Progress,
    ProtocolError,
    Started,
    ToWorker,
    decode_from_worker,
    encode_to_worker,
)

log = logging.getLogger("mlxk.switchboard")

FRAMES_AT_ONCE = 64
"""Then the readers have their turn."""
# As bare numbers: pyzmq's enums cost as much as the call.
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
_RCVMORE, _NOBLOCK = int(zmq.RCVMORE), int(zmq.NOBLOCK)


class Line:
    """What the switchboard knows of one worker: who listens, and which requests it works on."""

    __slots__ = ("on_idle", "on_message", "requests")

    def __init__(self, on_message: Callable[[FromWorker], None], on_idle: Callable[[], None]) -> None:
        self.on_message = on_message
        self.on_idle = on_idle
        self.requests: set[str] = set()


class Switchboard:
    """Two maps: request -> mailbox, and worker -> its requests, so that a death fails exactly its own."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self._socket = context.socket(zmq.ROUTER)
        # An unknown identity must raise instead of vanishing: it is a worker that is gone.
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            self._socket.bind(address)
        except zmq.ZMQError:
            self._socket.close()  # an open socket would keep its context from ever ending
            raise
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self._lines: dict[str, Line] = {}
        self._mailboxes: dict[str, tuple[str, Mailbox]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._drain)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        self._socket.close()

    # ------------------------------------------------------------------ workers

    def connect_worker(
        self, worker_id: str, on_message: Callable[[FromWorker], None], on_idle: Callable[[], None]
    ) -> None:
        """From now on the worker's own messages (not its requests' events) go to `on_message`."""
        self._lines[worker_id] = Line(on_message, on_idle)

    def disconnect_worker(self, worker_id: str, reason: Fault) -> None:
        """The worker is gone: each of its requests ends with `reason`."""
        self.catch_up()  # a request that did end has not failed
        self.fail_requests(worker_id, reason)
        self._lines.pop(worker_id, None)

    def fail_requests(self, worker_id: str, reason: Fault) -> None:
        line = self._lines.get(worker_id)
        for request_id in list(line.requests) if line else ():
            self._deliver_end(request_id, Failed(request_id, reason))

    def open_requests(self) -> int:
        """Mailboxes that wait for their last word, of all workers."""
        return len(self._mailboxes)

    def catch_up(self) -> None:
        """Read what has come. For who is about to judge a silence: when this process has stood still for a
        while, its timers run before its sockets are read, and what came in time is not there yet."""
        while self._read():
            pass

    def in_flight(self, worker_id: str) -> int:
        line = self._lines.get(worker_id)
        return len(line.requests) if line else 0

    def send(self, worker_id: str, *messages: ToWorker) -> bool:
        """False if the worker has no connection (it never had one, or it is gone)."""
        try:
            self._socket.send_multipart([worker_id.encode(), encode_to_worker(list(messages))], zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        # The descriptor is edge-triggered: a send may swallow the edge of a frame that has come meanwhile.
        self._loop.call_soon(self._drain)
        return True

    # ----------------------------------------------------------------- requests

    def open(self, worker_id: str, request_id: str, mailbox: Mailbox) -> bool:
        """Deliver this request's events to `mailbox` until its last word. False if the worker is gone."""
        line = self._lines.get(worker_id)
        if line is None:
            return False
        line.requests.add(request_id)
        self._mailboxes[request_id] = (worker_id, mailbox)
        return True

    def fail_request(self, request_id: str, reason: Fault) -> None:
        """End one request from our side."""
        self._deliver_end(request_id, Failed(request_id, reason))

    def _deliver_end(self, request_id: str, event: LastWord) -> None:
        found = self._mailboxes.pop(request_id, None)
        if found is None:
            return  # ended already: by its worker's death, or a late word after an abort
        worker_id, mailbox = found
        mailbox.put(event)
        mailbox.settled.set()
        line = self._lines.get(worker_id)
        if line is not None:
            line.requests.discard(request_id)
            if not line.requests:
                line.on_idle()

    # ------------------------------------------------------------------ reading

    def _drain(self) -> None:
        for _ in range(FRAMES_AT_ONCE):
            if not self._read():
                return
        self._loop.call_soon(self._drain)

    def _read(self) -> bool:
        """Take one message in; False if there is none. Asked for before it is taken: pyzmq's exception for
        "nothing there", once a frame, costs more than the frame."""
        socket = self._socket
        if socket.closed or not int(socket.getsockopt(_EVENTS)) & _POLLIN:
            return False
        parts = [socket.recv(_NOBLOCK)]
        while socket.getsockopt(_RCVMORE):
            parts.append(socket.recv(_NOBLOCK))
        if len(parts) == 2:  # else it is no worker of ours
            self._on_frame(parts[0].decode("ascii", "replace"), parts[1])
        return True

    def _on_frame(self, worker_id: str, frame: bytes) -> None:
        line = self._lines.get(worker_id)
        if line is None:
            log.warning("dropped a frame from %s, which is no worker of ours (any more)", worker_id)
            return
        try:
            messages = decode_from_worker(frame)
        except ProtocolError as error:
            log.error("%s: %s", worker_id, error)
            return
        mailboxes = self._mailboxes
        for message in messages:
            if type(message) is Deltas:
                now = time.monotonic()
                for delta in message.items:
                    found = mailboxes.get(delta.id)
                    if found is not None:
                        found[1].put_delta(delta, now)
            elif isinstance(message, LastWord):
                self._deliver_end(message.id, message)
            elif isinstance(message, Started | Progress):
                found = mailboxes.get(message.id)
                if found is not None:
                    found[1].put(message)
            else:
                line.on_message(message)
