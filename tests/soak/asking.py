"""One HTTP request of a soak client: sent, read to its end or left, and never waited for without a limit."""

from __future__ import annotations

import http.client
import json
import socket
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

HANG_S = 100.0
"""A request that has not ended by then hangs: loads, swaps, backoffs and grace periods all end sooner."""


@dataclass(slots=True)
class Answer:
    """How a request ended. `outcome`: "ok", "left" (by us), "hangs", "cut", "refused", or an error's code."""

    outcome: str
    began: float
    ended: float
    status: int = 0
    text: str = ""
    finish_reason: str | None = None
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class _Reading:
    """What has been read so far."""

    def __init__(self) -> None:
        self.status = 0
        self.text = ""
        self.finish_reason: str | None = None
        self.message = ""
        self.headers: dict[str, str] = {}
        self.body: Any = None


def ask(
    url: str,
    method: str,
    path: str,
    body: dict[str, Any] | bytes | None = None,
    *,
    leave_after_events: int | None = None,
    leave_after_s: float | None = None,
    cut_body: bool = False,
) -> Answer:
    """Send and read. It may be left: after N events of its stream, or when it has taken so long (0: at once),
    or before its body was sent whole."""
    began = time.monotonic()
    reading = _Reading()
    address = urlsplit(url)
    assert address.hostname is not None
    limit_s = HANG_S if leave_after_s is None else min(HANG_S, max(0.001, leave_after_s))
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=limit_s)
    payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        outcome = _run(
            connection, method, path, payload, reading, began + limit_s, leave_after_events, cut_body
        )
    except TimeoutError:
        outcome = "hangs" if leave_after_s is None else "left"
    except ConnectionRefusedError:
        outcome = "refused"
    except (OSError, http.client.HTTPException):
        outcome = "cut"
    finally:
        connection.close()
    return Answer(
        outcome,
        began,
        time.monotonic(),
        reading.status,
        reading.text,
        reading.finish_reason,
        reading.message,
        reading.headers,
        reading.body,
    )


def _run(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    payload: bytes | None,
    reading: _Reading,
    deadline: float,
    leave_after_events: int | None,
    cut_body: bool,
) -> str:
    headers = {"Content-Type": "application/json"}
    if cut_body and payload is not None:
        connection.putrequest(method, path)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(payload)))
        connection.endheaders(payload[: len(payload) // 2])
        return "left"
    connection.request(method, path, payload, headers)
    sock = connection.sock
    response = connection.getresponse()
    with response:
        reading.status = response.status
        reading.headers = {name.lower(): value for name, value in response.getheaders()}
        media_type = reading.headers.get("content-type", "").partition(";")[0]
        if media_type == "text/plain":  # GET /metrics
            return _whole(response.read().decode(), reading)
        if media_type != "text/event-stream":
            return _whole(json.loads(response.read() or b"null"), reading)
        return _stream(response, sock, reading, deadline, leave_after_events)


def _whole(body: Any, reading: _Reading) -> str:
    reading.body = body
    if reading.status >= 400:
        return _error(body, reading)
    if isinstance(body, dict) and body.get("choices"):
        choice = body["choices"][0]
        reading.text = choice["text"] if "text" in choice else (choice["message"].get("content") or "")
        reading.finish_reason = choice["finish_reason"]
    return "ok"


def _error(body: Any, reading: _Reading) -> str:
    error = body["error"]
    reading.message = str(error["message"])
    return str(error["code"])


def _stream(
    response: http.client.HTTPResponse,
    sock: socket.socket,
    reading: _Reading,
    deadline: float,
    leave_after_events: int | None,
) -> str:
    events = 0
    while True:
        if leave_after_events is not None and events >= leave_after_events:
            return "left"
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        sock.settimeout(left_s)
        line = response.readline()
        if not line:
            return "cut"
        if line.startswith(b"data: [DONE]"):
            return "ok"
        if not line.startswith(b"data: "):
            continue
        events += 1
        event = json.loads(line[6:])
        if isinstance(event.get("error"), dict):  # events of the pool have texts there
            return _error(event, reading)
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            reading.text += choice.get("text") or delta.get("content") or ""
            reading.finish_reason = choice.get("finish_reason") or reading.finish_reason
