"""A plain HTTP client for the tests: requests that can be left open, read event by event, and hung up."""

from __future__ import annotations

import http.client
import json
import select
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

from tests.server import Server

TIMEOUT_S = 30.0


class Request:
    """One completion request on a connection of its own: sent at once, read when asked."""

    def __init__(
        self, server: Server, model: str, *, words: int = 4, stream: bool = False, **body: Any
    ) -> None:
        address = urlsplit(server.url)
        assert address.hostname is not None
        self._connection = http.client.HTTPConnection(address.hostname, address.port, timeout=TIMEOUT_S)
        self._response: http.client.HTTPResponse | None = None
        body = {"model": model, "prompt": "go", "max_tokens": words, "stream": stream, **body}
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", "/v1/completions", json.dumps(body), headers)

    def __enter__(self) -> Request:
        return self

    def __exit__(self, *error: object) -> None:
        self.hang_up()

    @property
    def response(self) -> http.client.HTTPResponse:
        """Waits for the status line."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    @property
    def is_answered(self) -> bool:
        """Something has come. Does not wait."""
        return self._response is not None or bool(select.select([self._connection.sock], [], [], 0)[0])

    @property
    def status(self) -> int:
        return self.response.status

    def json(self) -> dict[str, Any]:
        data = json.loads(self.response.read())
        assert isinstance(data, dict)
        return data

    def text(self) -> str:
        """Of a whole, successful answer."""
        answer = self.json()
        assert self.status == 200, answer
        return str(answer["choices"][0]["text"])

    def error(self) -> dict[str, Any]:
        """Of an answer that is an error."""
        answer = self.json()
        assert self.status >= 400, answer
        error = answer["error"]
        assert isinstance(error, dict)
        return error

    def events(self) -> Iterator[dict[str, Any]]:
        """The stream's events, up to `[DONE]` or the error event. A stream that is cut raises."""
        assert self.status == 200, self.json()
        while True:
            line = self.response.readline()
            assert line, "the stream was cut"
            if line.startswith(b"data: [DONE]"):
                return
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                yield event
                if "error" in event:
                    return

    def next_event(self) -> dict[str, Any]:
        return next(self.events())

    def last_event(self) -> dict[str, Any]:
        """Reads to the end."""
        *_, last = self.events()
        return last

    def last_error(self) -> dict[str, Any]:
        """Of a stream that fails: its last event, or the answer itself if no token came before. A process
        that dies takes with it what it has not sent yet, so both are right for one that dies early."""
        error = self.last_event()["error"] if self.status == 200 else self.error()
        assert isinstance(error, dict)
        return error

    def hang_up(self) -> None:
        if self._response is not None:
            self._response.close()
        self._connection.close()


def ask_all(server: Server, models: list[str], **body: Any) -> list[tuple[int, dict[str, Any]]]:
    """All at the same time; status and answer of each."""
    with ExitStack() as stack:
        requests = [stack.enter_context(Request(server, model, **body)) for model in models]
        return [(request.status, request.json()) for request in requests]
