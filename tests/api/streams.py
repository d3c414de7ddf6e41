"""One streamed answer for the tests: event by event, put together again, or read in the background."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from types import TracebackType
from typing import Any

TIMEOUT_S = 60.0


@dataclass
class Answer:
    """A stream of one choice, put together again."""

    roles: int = 0
    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    matched_stop: str | int | None = None
    usage: dict[str, Any] | None = None
    done: bool = False
    """`[DONE]` was seen."""
    error: dict[str, Any] | None = None
    kinds: list[str] = field(default_factory=list)
    """What came in which order: role, content, reasoning, tool_call, final, usage."""

    @property
    def cached_tokens(self) -> int:
        assert self.usage is not None
        return int(self.usage["prompt_tokens_details"]["cached_tokens"])

    def add(self, event: dict[str, Any]) -> None:
        """One event of a chat or text completion with one choice."""
        if "error" in event:
            self.error = event["error"]
            return
        if not event["choices"]:
            self.kinds.append("usage")
            self.usage = event["usage"]
            return
        choice = event["choices"][0]
        delta = choice.get("delta", {"content": choice.get("text")})
        if delta.get("role"):
            self.roles += 1
            self.kinds.append("role")
        if delta.get("content"):
            self.content += delta["content"]
            self.kinds.append("content")
        if delta.get("reasoning_content"):
            self.reasoning += delta["reasoning_content"]
            self.kinds.append("reasoning")
        if delta.get("tool_calls"):
            for part in delta["tool_calls"]:
                self._add_call(part)
            self.kinds.append("tool_call")
        if choice["finish_reason"] is not None:
            assert self.finish_reason is None, "two final chunks"
            self.finish_reason = choice["finish_reason"]
            self.matched_stop = choice.get("matched_stop")
            self.usage = event.get("usage", self.usage)
            self.kinds.append("final")

    def _add_call(self, part: dict[str, Any]) -> None:
        """OpenAI's rule: the first part of a call names it, the others add to its arguments."""
        if part["index"] == len(self.tool_calls):
            assert set(part) == {"index", "id", "type", "function"}, part
            assert part["function"]["arguments"] == "", part
            self.tool_calls.append({**part, "function": dict(part["function"])})
        else:
            assert set(part) == {"index", "function"}, part
            assert set(part["function"]) == {"arguments"}, part
            self.tool_calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]


class Stream:
    """An open stream. Iterate over its events (parsed); `close` leaves like a client that goes away."""

    def __init__(self, connection: HTTPConnection, response: HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self._socket = connection.sock
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.comments: list[str] = []
        self.done = False

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in self._response:
            text = line.decode().rstrip("\n")
            if text == "data: [DONE]":
                self.done = True
            elif text.startswith("data: "):
                assert not self.done, "an event after [DONE]"
                yield json.loads(text.removeprefix("data: "))
            elif text.startswith(":"):
                self.comments.append(text)
            else:
                assert text == "", text

    def collect(self) -> Answer:
        """Read to the end."""
        answer = Answer()
        for event in self:
            answer.add(event)
        answer.done = self.done
        return answer

    def first_content(self) -> dict[str, Any]:
        """Read up to the first event with text; returns that event."""
        for event in self:
            answer = Answer()
            answer.add(event)
            if answer.content:
                return event
        raise AssertionError("the stream ended without content")

    def shut_down(self) -> None:
        """End the connection under a thread that reads from it; `close` follows when the thread has ended."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._response.close()
        self._connection.close()


class Background:
    """A stream that a thread reads. Use as a context manager: leaving it closes the stream and the thread."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._changed = threading.Condition()
        self._answer = Answer()
        self._n_events = 0
        self._ended = False
        self._failure: Exception | None = None
        self.longest_pause_s = 0.0
        """Between two events."""
        self._thread = threading.Thread(target=self._read, name="background-stream")
        self._thread.start()

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Go away like a client that has enough. Idempotent."""
        if not self._ended:
            # The socket, not the response: its buffer belongs to the reading thread.
            self._stream.shut_down()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        self._stream.close()

    def _read(self) -> None:
        last = time.monotonic()
        try:
            for event in self._stream:
                now = time.monotonic()
                with self._changed:
                    if self._n_events:
                        self.longest_pause_s = max(self.longest_pause_s, now - last)
                    last = now
                    self._answer.add(event)
                    self._n_events += 1
                    self._changed.notify_all()
        except Exception as error:  # shown by `result`; after our own leaving it is expected
            self._failure = error
        with self._changed:
            self._ended = True
            self._answer.done = self._stream.done
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        return self._ended

    def wait_more(self, n: int = 3, timeout_s: float = 60.0) -> None:
        """Wait for `n` more events: the stream is alive."""
        with self._changed:
            goal = self._n_events + n
            assert self._changed.wait_for(lambda: self._n_events >= goal or self._ended, timeout_s)
            assert self._n_events >= goal, f"the stream ended: {self._describe_end()}"

    def wait_begun(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait for the first event. The stream may have ended by then."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._n_events > 0 or self._ended, timeout_s)
            assert self._n_events > 0, f"nothing came: {self._describe_end()}"

    def _describe_end(self) -> str:
        answer = self._answer
        return f"{answer.finish_reason} {answer.error} {self._failure!r} …{answer.content[-40:]!r}"

    def result(self, timeout_s: float = TIMEOUT_S) -> Answer:
        """The whole answer, when the stream has ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._ended, timeout_s), "the stream goes on"
        if self._failure is not None:
            raise self._failure
        return self._answer
