"""The load client: asyncio in a process of its own, for any OpenAI-compatible server.

`call(function, url, **arguments)` runs the coroutine function `function(client, **arguments)`, of any module
of bench, in a fresh process and returns what its streams felt like. So the client never waits behind the
bench's own work, and how much of a core it took is known (`Flow.cpu_share`): one near 1.0 would be the
bottleneck.

httptools and msgspec parse the answers: what the client takes of a small machine the server lacks.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec
import uvloop

CHAT = "/v1/chat/completions"
CALL_TIMEOUT_S = 900.0


class Stream(msgspec.Struct):
    """What one request felt like. Times are seconds of `time.perf_counter`, which all processes share."""

    began: float
    """Before the connection is made."""
    arrivals: list[float] = []
    """One per event that brought text."""
    tokens: int = 0
    """The server's `usage.completion_tokens`."""
    finished: bool = False
    usage: dict[str, Any] = {}
    error: str = ""
    text: str = ""
    ended: float = 0.0

    @property
    def ttft_s(self) -> float:
        return self.arrivals[0] - self.began

    @property
    def cached_tokens(self) -> int:
        return int((self.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


class Flow(msgspec.Struct):
    """All streams of one call."""

    streams: list[Stream]
    wall_s: float
    cpu_s: float
    """What the client itself took of the processor."""

    @property
    def cpu_share(self) -> float:
        return self.cpu_s / self.wall_s


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class _Answer(asyncio.Protocol):
    """One connection: sends the request, reads the event stream."""

    def __init__(self, stream: Stream, request: bytes, on_piece: Callable[[Stream], None] | None) -> None:
        self.stream, self.request, self.on_piece = stream, request, on_piece
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        self._now = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        if not self.stream.finished and not self.stream.error:
            self.stream.error = f"the connection was lost: {error or 'closed'}; {self._rest[:200]!r}"
        self._end()

    def on_body(self, body: bytes) -> None:
        *lines, self._rest = (self._rest + body).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                self._take(line[6:].rstrip())

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            self.stream.error = f"HTTP {status}: {self._rest[:300].decode(errors='replace')}"
        self._end()

    def _take(self, data: bytes) -> None:
        stream = self.stream
        if data == b"[DONE]":
            stream.finished = not stream.error
            return self._end()
        event = _decode(data)
        if event.usage:
            stream.usage = event.usage
            stream.tokens = event.usage.get("completion_tokens") or 0
        if event.error:
            stream.error = str(event.error)[:300]
        for choice in event.choices:
            delta = choice.delta
            text = choice.text or (delta and (delta.content or delta.reasoning_content or delta.reasoning))
            if text:
                stream.arrivals.append(self._now)
                stream.text += text
                if self.on_piece:
                    self.on_piece(stream)
        return None

    def _end(self, error: str = "") -> None:
        self.stream.error = self.stream.error or error
        self.stream.ended = self.stream.ended or time.perf_counter()
        if not self.over.done():
            self.over.set_result(None)


class Client:
    """Asks one server. Every request has a connection of its own."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self.host, self.port = target.hostname or "127.0.0.1", target.port or 80

    async def ask(
        self,
        body: dict[str, Any],
        *,
        path: str = CHAT,
        abort_after: int | None = None,
        on_piece: Callable[[Stream], None] | None = None,
    ) -> Stream:
        """One streamed completion; `body` without `stream`, which is added.

        `abort_after`: leave (close the connection) after so many events with text. `on_piece` is called
        after each of them, for instance to set the `asyncio.Event` that another request waits for.
        """
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        payload = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        stream = Stream(time.perf_counter())

        def count(told: Stream) -> None:
            if on_piece:
                on_piece(told)
            if abort_after is not None and len(told.arrivals) >= abort_after:
                told.error = "left on purpose"
                answer.transport.abort()

        listener = count if abort_after is not None else on_piece
        answer = _Answer(stream, head.encode() + payload, listener)
        await asyncio.get_running_loop().create_connection(lambda: answer, self.host, self.port)
        try:
            await answer.over
        finally:
            answer.transport.close()
        return stream

    async def flow(self, bodies: Sequence[dict[str, Any]], streams: int) -> list[Stream]:
        """Keeps `streams` requests running until all bodies are answered: the next as soon as one ends."""
        waiting = iter(bodies)
        done: list[Stream] = []

        async def lane() -> None:
            done.extend([await self.ask(body) for body in waiting])

        await asyncio.gather(*(lane() for _ in range(min(streams, len(bodies)))))
        return done


async def flow(client: Client, bodies: list[dict[str, Any]], streams: int) -> list[Stream]:
    """`call(flow, url, bodies=..., streams=8)`: the simplest scene."""
    return await client.flow(bodies, streams)


def call(function: Callable[..., Awaitable[list[Stream]]], url: str, **arguments: Any) -> Flow:
    """Runs `function(Client(url), **arguments)` in a process of its own. Arguments are JSON."""
    command = [sys.executable, "-P", "-m", "bench.client", f"{function.__module__}:{function.__qualname__}"]
    done = subprocess.run(
        command,
        input=json.dumps({"url": url, "arguments": arguments}).encode(),
        stdout=subprocess.PIPE,
        timeout=CALL_TIMEOUT_S,
        check=True,
    )
    try:
        return msgspec.json.decode(done.stdout, type=Flow)
    except msgspec.DecodeError as error:
        raise RuntimeError(
            f"the load client ended with {done.returncode} after {len(done.stdout)} bytes: "
            f"{done.stdout[-80:]!r}"
        ) from error


async def _measure(function: Callable[..., Awaitable[list[Stream]]], url: str, arguments: Any) -> Flow:
    began, cpu = time.perf_counter(), time.process_time()
    streams = await function(Client(url), **arguments)
    return Flow(streams, time.perf_counter() - began, time.process_time() - cpu)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is the bench's to tell
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    order = json.load(sys.stdin)
    found = uvloop.run(_measure(function, order["url"], order["arguments"]))
    # A buffered file writes until all is written. With PYTHONUNBUFFERED=1 `sys.stdout.buffer` is a bare
    # descriptor, and libuv's io_uring ends a long write to a pipe early (1 of 40 here).
    with os.fdopen(os.dup(1), "wb") as out:
        out.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
