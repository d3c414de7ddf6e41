"""A plain HTTP client for the tests: whole answers, and the streams of `streams.py`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from mlxk.supervisor.service import REFRESH_TIMEOUT_S
from tests.api.streams import TIMEOUT_S, Answer, Background, Stream

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@dataclass(frozen=True)
class Reply:
    """A whole HTTP answer."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The envelope's content; checks its shape."""
        body = self.json()
        assert set(body) == {"error"}, body
        assert set(body["error"]) == {"message", "type", "param", "code"}, body
        assert "Traceback" not in body["error"]["message"]
        return dict(body["error"])


class Pending:
    """A request that was sent and whose answer has not been read. Leaving the context leaves the server."""

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection

    def __enter__(self) -> Pending:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def read(self) -> Reply:
        return _read(self._connection.getresponse())


def _read(response: HTTPResponse) -> Reply:
    names = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, names, response.read())


class Client:
    """Talks to one server; a new connection for every request."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.host, self.port = parts.hostname, parts.port
        self._headers = dict(headers or {})

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Reply:
        """`body`: bytes as they are, anything else as JSON."""
        connection = HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            self._send(connection, method, path, body, headers)
            return _read(connection.getresponse())
        finally:
            connection.close()

    def _send(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        body: Any,
        headers: Mapping[str, str] | None,
    ) -> None:
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        content = {} if raw is None else {"Content-Type": "application/json"}
        connection.request(method, path, raw, {**content, **self._headers, **(headers or {})})

    def get(self, path: str, **more: Any) -> Reply:
        return self.request("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> Reply:
        return self.request("POST", path, body, **more)

    # -------------------------------------------------------------------------- pool

    def pool(self) -> dict[str, dict[str, Any]]:
        """`GET /pool`: the models by name."""
        reply = self.get("/pool")
        assert reply.status == 200, reply.body
        return {model["name"]: model for model in reply.json()["models"]}

    def cache(self, model: str) -> dict[str, int]:
        """What the model's worker counts of its prefix cache now. Where it does not say so at once, /pool
        shows what it said last; an answer that was quicker than that patience is no such one."""
        for _ in range(100):
            asked_at = time.monotonic()
            counts = self.pool()[model]["cache"]
            if time.monotonic() - asked_at < REFRESH_TIMEOUT_S:
                break
        return dict(counts)

    def wait_pool(
        self, condition: Callable[[dict[str, dict[str, Any]]], Any], timeout_s: float = 60.0
    ) -> Any:
        """Poll until `condition(self.pool())` is true: counters have no event of their own."""
        return wait_until(lambda: condition(self.pool()), timeout_s, show=self.pool)

    def wait_ready(self, *models: str) -> None:
        """Until these are loaded, which somebody has asked for."""
        self.wait_pool(lambda pool: all(pool.get(name, {}).get("state") == "ready" for name in models), 150.0)

    # ------------------------------------------------------------------- completions

    def chat(self, model: str, messages: str | list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        """A whole chat completion, which must succeed."""
        reply = self.post(CHAT, chat_body(model, messages, **fields))
        assert reply.status == 200, reply.body
        return dict(reply.json())

    def text(self, model: str, prompt: Any, **fields: Any) -> dict[str, Any]:
        """A whole text completion, which must succeed."""
        reply = self.post(TEXT, text_body(model, prompt, **fields))
        assert reply.status == 200, reply.body
        return dict(reply.json())

    def stream(self, path: str, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> Stream:
        """An open stream; the answer must be a 200."""
        connection = HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        try:
            self._send(connection, "POST", path, {**body, "stream": True}, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise AssertionError(f"{response.status}: {response.read()!r}")
        except BaseException:
            connection.close()
            raise
        return Stream(connection, response)

    def whole(self, path: str, body: dict[str, Any]) -> Pending:
        """Send a request and do not wait for its answer."""
        connection = HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        try:
            self._send(connection, "POST", path, body, None)
        except BaseException:
            connection.close()
            raise
        return Pending(connection)

    def stream_chat(self, model: str, messages: str | list[dict[str, Any]], **fields: Any) -> Answer:
        """A streamed chat completion, read to its end."""
        with self.stream(CHAT, chat_body(model, messages, **fields)) as stream:
            return stream.collect()

    def stream_text(self, model: str, prompt: Any, **fields: Any) -> Answer:
        with self.stream(TEXT, text_body(model, prompt, **fields)) as stream:
            return stream.collect()

    def background(self, model: str, messages: str | list[dict[str, Any]], **fields: Any) -> Background:
        """A streamed chat completion that a thread reads."""
        return Background(self.stream(CHAT, chat_body(model, messages, **fields)))

    def background_text(self, model: str, prompt: Any, **fields: Any) -> Background:
        """A streamed text completion that a thread reads. No hidden stop string ends it."""
        return Background(self.stream(TEXT, text_body(model, prompt, **fields)))


def chat_body(model: str, messages: str | list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """Greedy, unless `fields` say otherwise."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return {"model": model, "messages": messages, "temperature": 0, **fields}


def text_body(model: str, prompt: Any, **fields: Any) -> dict[str, Any]:
    """Greedy, unless `fields` say otherwise."""
    return {"model": model, "prompt": prompt, "temperature": 0, **fields}


def wait_until(
    condition: Callable[[], Any], timeout_s: float = 60.0, *, show: Callable[[], Any] | None = None
) -> Any:
    """Poll until `condition()` is true; returns its value. `show()` is part of the failure."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {show() if show else ''}"
        time.sleep(0.02)
    return value
