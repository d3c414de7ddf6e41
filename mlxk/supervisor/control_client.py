"""A client's end of the control socket: ask a running server, and notice when it dies meanwhile.

Synchronous and small, because `mlxk ps` is felt: zmq and msgspec are imported here, psutil only
once a server has been silent for a moment or an end is awaited.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator
from types import TracebackType
from typing import Any

import zmq

from mlxk.config.instance import Instance, read_instance, read_recorded
from mlxk.supervisor.control_protocol import (
    MAX_FRAME_BYTES,
    ControlFault,
    ControlProtocolError,
    ControlReply,
    ControlRequest,
    Verb,
    decode_reply,
    encode_request,
)

POLL_S = 0.25
"""How often a waiting client looks whether the server still lives."""
GONE_POLL_S = 0.02
CANCEL_LINGER_MS = 200
"""For the word that a stream is not wanted any more; if it is lost, the server finds out by itself."""
CREATED_TOLERANCE_S = 2.0
"""psutil derives a create time from the boot time, which a clock adjustment moves a little."""


class ServerNotRunningError(Exception):
    """There is no server, or it ended before it answered."""


class ControlTimeoutError(Exception):
    """The server lives and did not answer in time."""


class ControlError(Exception):
    """The server answered with a fault, or with something that is no answer."""

    def __init__(self, fault: ControlFault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class ControlClient:
    """One connection to one server, identified by pid and create time. Use as a context manager."""

    def __init__(self, control_path: str, pid: int, created_at: float) -> None:
        self.pid = pid
        self._created_at = created_at
        self._path = control_path
        self._calls = 0
        self._linger_ms = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._socket.connect(f"ipc://{control_path}")

    def call(self, verb: str, args: dict[str, Any], *, timeout_s: float | None) -> dict[str, Any]:
        """Ask and wait for the answer's data. `timeout_s` None waits as long as the server lives.

        Raises ControlError (the server's fault, as data), ControlTimeoutError, and
        ServerNotRunningError if the server ends before it answers.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._calls += 1
        request_id = str(self._calls)
        self._socket.send(encode_request(ControlRequest(request_id, verb, args)))
        while True:
            wait_s = POLL_S if deadline is None else min(POLL_S, max(0.0, deadline - time.monotonic()))
            data = self._receive(request_id, wait_s)
            if data is not None:
                return data
            if not self.is_server_alive() or self._has_begun_anew():
                # Its last word may have come between the poll and its end.
                data = self._receive(request_id, 0.0)
                if data is not None:
                    return data
                raise ServerNotRunningError(f"the server (pid {self.pid}) ended before it answered `{verb}`")
            if deadline is not None and time.monotonic() >= deadline:
                raise ControlTimeoutError(
                    f"the server (pid {self.pid}) did not answer `{verb}` within {timeout_s:g} s"
                )

    def stream(self, verb: str, args: dict[str, Any]) -> Generator[dict[str, Any] | None, None, None]:
        """The data of each of the replies to one request; None whenever none has come for a moment, so that
        the caller can look whether anybody still wants them. Ends with the server's last reply; close the
        iterator to end it sooner. Raises ControlError and ServerNotRunningError.
        """
        self._calls += 1
        request_id = str(self._calls)
        self._socket.send(encode_request(ControlRequest(request_id, verb, args)))
        self._linger_ms = CANCEL_LINGER_MS
        done = False
        try:
            while not done:
                reply = self._receive_reply(request_id, POLL_S)
                if reply is None and not self.is_server_alive():
                    reply = self._receive_reply(request_id, 0.0)
                    if reply is None:
                        done = True
                        raise ServerNotRunningError(f"the server (pid {self.pid}) has ended")
                done = reply is not None and not reply.more
                yield None if reply is None else reply.data
                if reply is not None and reply.more:
                    self._socket.send(encode_request(ControlRequest(request_id, Verb.MORE)))
        finally:
            if not done:
                with contextlib.suppress(zmq.ZMQError):
                    self._socket.send(encode_request(ControlRequest(request_id, Verb.CANCEL)), zmq.NOBLOCK)

    def _receive(self, request_id: str, wait_s: float) -> dict[str, Any] | None:
        """The data of the answer to `request_id`; None if it did not come within `wait_s` seconds."""
        reply = self._receive_reply(request_id, wait_s)
        return None if reply is None else reply.data

    def _receive_reply(self, request_id: str, wait_s: float) -> ControlReply | None:
        """The next reply to that request, with its data; raises ControlError if it is a fault."""
        deadline = time.monotonic() + wait_s
        while self._socket.poll(max(0, round((deadline - time.monotonic()) * 1000))):
            frames = self._socket.recv_multipart()
            try:
                if len(frames) != 1:
                    raise ControlProtocolError(f"a reply of {len(frames)} parts")
                reply = decode_reply(frames[0])
            except ControlProtocolError as error:
                raise ControlError(
                    ControlFault(
                        "protocol_error",
                        f"The server's answer cannot be understood ({error}). If it runs another version "
                        "of mlxk, restart it.",
                    )
                ) from error
            if reply.id not in (request_id, ""):  # "": the server could not even read the request's id
                continue  # the late answer to a call that was given up
            if reply.error is not None:
                raise ControlError(reply.error)
            return reply
        return None

    def is_server_alive(self) -> bool:
        """Whether the very process that we talk to still runs (a zombie does not)."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return False  # ours was started by this user: the pid belongs to somebody else now
        import psutil

        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self._created_at) > CREATED_TOLERANCE_S:
                return False
            return bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True

    def wait_gone(self, *, timeout_s: float | None) -> bool:
        """Wait until the server's process has ended; False if it still runs after `timeout_s` seconds."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.is_server_alive():
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(GONE_POLL_S)
        return True

    def _has_begun_anew(self) -> bool:
        """`mlxk restart`: the process is the same, but our socket and what was asked there are gone. (A
        socket file alone may have been removed by a cleaner of /tmp: what is connected goes on.)"""
        if os.path.exists(self._path):
            return False
        recorded = read_recorded()
        return recorded is None or recorded.control != self._path

    def close(self) -> None:
        self._context.destroy(linger=self._linger_ms)

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def connect_to(instance: Instance) -> ControlClient:
    """A client of that very server."""
    return ControlClient(instance.control, instance.pid, instance.created_at)


def connect() -> ControlClient:
    """A client of the server that the instance file names. Raises ServerNotRunningError."""
    instance = read_instance()
    if instance is None:
        raise ServerNotRunningError("no server is running")
    return connect_to(instance)
