"""Server-sent events of a streamed answer, as bytes. Pure: events of the protocol in, frames out.

This is the hot path of the front: every token of every stream passes here. A stream's frames share a head
that is built once, texts are encoded by msgspec, and whatever arrived together leaves together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mlxk import __version__
from mlxk.api.errors import fault_envelope
from mlxk.api.logprobs import TextLogprobs, chat_logprobs
from mlxk.api.translate import Plan, ReplyKind
from mlxk.api.usage import total_usage, usage_json
from mlxk.workers.protocol import (
    Delta,
    Failed,
    Fault,
    FaultError,
    Finished,
    Progress,
    RequestEvent,
    TokenLogprob,
    ToolCall,
    Usage,
)

SYSTEM_FINGERPRINT = f"mlxk-{__version__}"
DONE = b"data: [DONE]\n\n"
_OPEN = b',"finish_reason":null}]}\n\n'
_NO_LOGPROBS = b',"logprobs":null'
_CONTENT_TAIL = b"}" + _NO_LOGPROBS + _OPEN

_encode = msgspec.json.Encoder().encode


class StreamWriter:
    """One streamed answer: `write` each batch of events and send what it returns.

    Order: for each choice the role (chat), its deltas, its final chunk; on the last final chunk the usage;
    then OpenAI's usage chunk if asked for, then `[DONE]`.
    """

    def __init__(self, plan: Plan, model: str, created: int) -> None:
        self.done = False
        """Nothing follows what was returned last."""
        self.begun = False
        """Something was returned: a failure can no longer be an HTTP status."""
        self.failure: Fault | None = None
        self._plan = plan
        self._base = _base(plan, model, created)
        chunks = ChatChunks if plan.kind is ReplyKind.CHAT else TextChunks
        self._chunks = [
            chunks(self._base, index, generate.logprobs) for index, generate in enumerate(plan.generates)
        ]
        self._finished: dict[int, Finished] = {}
        self._progress: Progress | None = None

    @property
    def finished(self) -> list[Finished]:
        """The ends of the choices so far, in the order of the choices."""
        return [self._finished[index] for index in sorted(self._finished)]

    def write(self, batch: list[tuple[int, list[RequestEvent]]]) -> bytes:
        """The frames for `batch`, b"" if it holds nothing for the client.

        Raises FaultError for a failure before anything was returned.
        """
        if self.begun and len(batch) == 1:
            index, events = batch[0]
            if len(events) == 1 and type(event := events[0]) is Delta:
                return self._chunks[index].write((event,))  # nearly always
        frames = b""
        for index, events in batch:
            deltas: list[Delta] = []
            for event in events:
                if isinstance(event, Delta):
                    deltas.append(event)
                elif isinstance(event, Progress):
                    self._progress = event
                elif isinstance(event, Failed):
                    if not self.begun:
                        raise FaultError(event.fault)
                    return frames + self._write(index, deltas) + self.fail(event.fault)
                elif isinstance(event, Finished):
                    frames += self._write(index, deltas, event)
                    deltas = []
            if deltas:
                frames += self._write(index, deltas)
        if frames:
            self.begun = True
        return frames

    def _write(self, index: int, deltas: list[Delta], end: Finished | None = None) -> bytes:
        frames = self._chunks[index].write(deltas) if deltas or end else b""
        if end is None:
            return frames
        self._finished[index] = end
        if len(self._finished) < len(self._chunks):
            return frames + self._chunks[index].close(end, None)
        self.done = True
        usage = usage_json(self.usage())
        frames += self._chunks[index].close(end, usage)
        if self._plan.include_usage:
            frames += self._base + b',"choices":[],"usage":' + _encode(usage) + b"}\n\n"
        return frames + DONE

    def usage(self) -> Usage:
        """Of all choices; they must be finished."""
        return total_usage([one.usage for one in self.finished], self._plan.n)

    def comment(self) -> bytes:
        """A line that clients skip and that keeps proxies from giving up: loading, or a long prefill."""
        self.begun = True
        if self._progress is None:
            return b": waiting\n\n"
        return b": prefill %d/%d\n\n" % (self._progress.done, self._progress.total)

    def fail(self, fault: Fault) -> bytes:
        """The error event, after which a stream ends without `[DONE]`."""
        self.done = True
        self.failure = fault
        return b"data: " + fault_envelope(fault) + b"\n\n"


class ChatChunks:
    """Chunks of one choice of a chat completion."""

    def __init__(self, base: bytes, index: int, n_top: int | None) -> None:
        """`n_top`: `Generate.logprobs` of the choice."""
        self._head = base + b',"choices":[{"index":%d,"delta":' % index
        self._content_head = self._head + b'{"content":'
        self._role_due = True
        self._calls = 0

    def write(self, deltas: Sequence[Delta]) -> bytes:
        """Neighbouring texts become one chunk."""
        if len(deltas) == 1 and not self._role_due:
            delta = deltas[0]
            if delta.content and not (delta.reasoning or delta.tool_calls or delta.logprobs):
                return self._content_head + _encode(delta.content) + _CONTENT_TAIL
        frames = b""
        if self._role_due:
            self._role_due = False
            frames = self._head + b'{"role":"assistant"}' + _NO_LOGPROBS + _OPEN
        content = reasoning = ""
        logprobs: list[TokenLogprob] = []
        for delta in deltas:
            if delta.reasoning:
                if content:
                    frames += self._text(b"content", content, logprobs)
                    content, logprobs = "", []
                reasoning += delta.reasoning
            if delta.content:
                if reasoning:
                    frames += self._text(b"reasoning_content", reasoning, [])
                    reasoning = ""
                content += delta.content
                logprobs += delta.logprobs
            if delta.tool_calls:
                frames += self._texts(reasoning, content, logprobs)
                content, reasoning, logprobs = "", "", []
                for call in delta.tool_calls:
                    frames += self._tool_call(call)
        return frames + self._texts(reasoning, content, logprobs)

    def _texts(self, reasoning: str, content: str, logprobs: list[TokenLogprob]) -> bytes:
        return self._text(b"reasoning_content", reasoning, []) + self._text(b"content", content, logprobs)

    def _text(self, name: bytes, text: str, logprobs: list[TokenLogprob]) -> bytes:
        if not text:
            return b""
        told = b',"logprobs":' + _encode(chat_logprobs(logprobs)) if logprobs else _NO_LOGPROBS
        return b'%b{"%b":%b}%b%b' % (self._head, name, _encode(text), told, _OPEN)

    def _tool_call(self, call: ToolCall) -> bytes:
        """As OpenAI streams one: who is called, then the arguments. It was held back until it was whole."""
        opening = {"index": self._calls, **tool_call_json(call)}
        opening["function"] = {"name": call.name, "arguments": ""}
        arguments = {"index": self._calls, "function": {"arguments": call.arguments}}
        self._calls += 1
        return b"".join(
            self._head + b'{"tool_calls":[' + _encode(part) + b"]}" + _NO_LOGPROBS + _OPEN
            for part in (opening, arguments)
        )

    def close(self, end: Finished, usage: dict[str, Any] | None) -> bytes:
        return self._head + b"{}" + _NO_LOGPROBS + _ending(end, usage)


class TextChunks:
    """Chunks of one choice of a text completion."""

    def __init__(self, base: bytes, index: int, n_top: int | None) -> None:
        """`n_top`: `Generate.logprobs` of the choice."""
        self._head = base + b',"choices":[{"index":%d,"text":' % index
        self._logprobs = TextLogprobs(n_top or 0)

    def write(self, deltas: Sequence[Delta]) -> bytes:
        text = "".join([delta.reasoning + delta.content for delta in deltas])
        if not text:
            return b""
        entries = [entry for delta in deltas for entry in delta.logprobs]
        told = b',"logprobs":' + _encode(self._logprobs.json(entries)) if entries else _NO_LOGPROBS
        return self._head + _encode(text) + told + _OPEN

    def close(self, end: Finished, usage: dict[str, Any] | None) -> bytes:
        return self._head + b'""' + _NO_LOGPROBS + _ending(end, usage)


def tool_call_json(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _base(plan: Plan, model: str, created: int) -> bytes:
    """`data: {"id":...,"system_fingerprint":"..."`, open for more."""
    head = {
        "id": f"{plan.kind.value}-{plan.id}",
        "object": "chat.completion.chunk" if plan.kind is ReplyKind.CHAT else "text_completion",
        "created": created,
        "model": model,
        "system_fingerprint": SYSTEM_FINGERPRINT,
    }
    return b"data: " + _encode(head)[:-1]


def _ending(end: Finished, usage: dict[str, Any] | None) -> bytes:
    frame = b',"finish_reason":' + _encode(end.reason.value)
    if end.matched_stop is not None:
        frame += b',"matched_stop":' + _encode(end.matched_stop)
    frame += b"}]"
    if usage is not None:
        frame += b',"usage":' + _encode(usage)
    return frame + b"}\n\n"
