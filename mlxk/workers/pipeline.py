"""From tokens to what the client sees; one path for streams and whole replies.

detokenizer -> stop matcher -> reasoning and tool-call splitter -> deltas. Because a whole reply is
the sum of the deltas, a stream and a reply of the same request cannot differ.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlxk.workers.protocol import ToolCall
from mlxk.workers.stops import StopMatch, StopMatcher


class StreamDecoder(Protocol):
    def push(self, token: int) -> str: ...
    def flush(self) -> str: ...


class TextSplitter(Protocol):
    """A running state machine over decoded text (mlx_lm's TextStateMachine behind the adapter)."""

    @property
    def state(self) -> str: ...
    def split(self, text: str) -> list[tuple[str, str]]: ...
    def flush(self) -> tuple[str, str]: ...


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model writes its calls. `parse` raises on malformed text."""

    start: str
    end: str
    parse: Callable[[str, Any], Any]


@dataclass(slots=True)
class Piece:
    """What one step adds to a reply."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)

    def extend(self, more: Piece) -> None:
        self.content += more.content
        self.reasoning += more.reasoning
        self.tool_calls.extend(more.tool_calls)

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls)


class TextPipeline:
    """One request's text. `push` for every token; `finish` once, at the end of the sequence."""

    def __init__(
        self,
        decoder: StreamDecoder,
        *,
        stops: list[str],
        hidden_stops: list[str],
        splitter: TextSplitter | None,
        tool_format: ToolFormat | None = None,
        tools: list[dict[str, Any]] | None = None,
    ) -> None:
        self._decoder = decoder
        self._reported = set(stops)
        self._matcher = StopMatcher([*stops, *(stop for stop in hidden_stops if stop not in stops)])
        self._splitter = splitter
        self._tool_format = tool_format
        self._tools = tools
        self._call_text = ""
        self._trim_content = False
        """After reasoning or a call, white space before the next content is the format's, not the reply's."""
        self._trim_reasoning = True
        self._held_reasoning_space = ""
        self.stopped = False
        self.matched_stop: str | None = None
        self.made_tool_calls = False

    @property
    def in_reasoning(self) -> bool:
        return self._splitter is not None and self._splitter.state == "reasoning"

    def push(self, token: int) -> Piece:
        piece = Piece()
        self._match(self._decoder.push(token), piece)
        return piece

    def finish(self) -> Piece:
        """Let go of everything that was held back. After a stop match nothing is."""
        piece = Piece()
        if not self.stopped:
            self._match(self._decoder.flush(), piece)
        if not self.stopped:
            self._split(self._matcher.flush(), piece)
        self._close_splitter(piece)
        return piece

    def _match(self, text: str, piece: Piece) -> None:
        if not text:
            return
        found = self._matcher.push(text)
        if isinstance(found, StopMatch):
            self.stopped = True
            self.matched_stop = found.stop if found.stop in self._reported else None
            found = found.text
        self._split(found, piece)

    def _split(self, text: str, piece: Piece) -> None:
        if not text:
            return
        if self._splitter is None:
            piece.content += text
            return
        before = self._splitter.state
        for state, part in self._splitter.split(text):
            if state != before:
                self._leave(before, piece)
                before = state
            self._add(state, part, piece)
        if self._splitter.state != before:
            self._leave(before, piece)

    def _add(self, state: str, text: str, piece: Piece) -> None:
        if state == "tool":
            self._call_text += text
        elif state == "reasoning":
            self._add_reasoning(text, piece)
        else:
            if self._trim_content:
                text = text.lstrip()
            if text:
                self._trim_content = False
                piece.content += text

    def _add_reasoning(self, text: str, piece: Piece) -> None:
        """White space around the thoughts belongs to the markers; inside it belongs to the thoughts."""
        if self._trim_reasoning:
            text = text.lstrip()
        if not text:
            return
        self._trim_reasoning = False
        text = self._held_reasoning_space + text
        kept = text.rstrip()
        self._held_reasoning_space = text[len(kept) :]
        piece.reasoning += kept

    def _leave(self, state: str, piece: Piece) -> None:
        if state == "tool":
            self._trim_content = self._finish_call(piece, closed=True)
        elif state == "reasoning":
            self._held_reasoning_space = ""
            self._trim_content = True

    def _close_splitter(self, piece: Piece) -> None:
        if self._splitter is None:
            return
        state, rest = self._splitter.flush()
        self._add(state, rest, piece)
        if state == "tool":
            self._finish_call(piece, closed=False)

    def _finish_call(self, piece: Piece, *, closed: bool) -> bool:
        """Whether it was a call."""
        text, self._call_text = self._call_text, ""
        if self._tool_format is None:
            return False
        calls = self._parse_calls(text)
        if calls:
            self.made_tool_calls = True
            piece.tool_calls.extend(calls)
            return True
        # Malformed, or no tools were offered: the client gets what the model wrote.
        piece.content += self._tool_format.start + text + (self._tool_format.end if closed else "")
        return False

    def _parse_calls(self, text: str) -> list[ToolCall]:
        if self._tool_format is None or not self._tools:
            return []
        try:
            parsed = self._tool_format.parse(text, self._tools)
            return [_tool_call(call) for call in (parsed if isinstance(parsed, list) else [parsed])]
        except Exception:  # parsers raise whatever their format's libraries raise
            return []


def _tool_call(call: Any) -> ToolCall:
    """Raises ValueError unless `call` is {"name": str, "arguments": object or JSON text}."""
    name = call["name"]
    arguments = call.get("arguments", {})
    if not isinstance(name, str) or not name:
        raise ValueError("a call without a name")
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("a call whose arguments are no object")
    call_id = call.get("id")
    if not isinstance(call_id, str) or not call_id:
        call_id = f"call_{uuid.uuid4().hex[:24]}"
    text = json.dumps(arguments, ensure_ascii=False)
    if not _is_encodable(text):
        text = json.dumps(arguments)
    if not _is_encodable(name) or not _is_encodable(call_id):
        raise ValueError("a call whose name is no text")
    return ToolCall(call_id, name, text)


def _is_encodable(text: str) -> bool:
    """No half surrogate pairs: JSON may hold them as escapes ("\\ud83d"), a message to the front may not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
