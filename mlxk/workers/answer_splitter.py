"""Takes apart the text of a reply whose form is forced: thoughts, then JSON or calls.

The model's markers alone would not do: inside JSON they are text like any other (`{"tag": "<tool_call>"}`),
and a call ends where its JSON ends, not at the first marker in one of its strings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from mlxk.workers.grammars import CallMarkers, Form
from mlxk.workers.marker_tokens import begun
from mlxk.workers.pipeline import TextSplitter


@dataclass(frozen=True, slots=True)
class ThinkMarkers:
    start: str | None
    """None: the model cannot open its thoughts any more (the template has, or has closed them)."""
    end: str


class _At(Enum):
    FREE = "free"
    THOUGHTS = "thoughts"
    START = "start"
    """Of the answer, or between two calls."""
    JSON = "json"
    CALL = "call"
    CLOSING = "closing"
    """After a call's JSON, before its end marker."""
    DONE = "done"


_STATES = {_At.THOUGHTS: "reasoning", _At.CALL: "tool", _At.CLOSING: "tool"}


class AnswerSplitter:
    """`pipeline.TextSplitter`. Any cut of the text into chunks gives the same parts."""

    def __init__(
        self,
        form: Form,
        markers: CallMarkers | None,
        think: ThinkMarkers | None,
        *,
        initial: str,
        free: Callable[[str], TextSplitter],
    ) -> None:
        """`free` makes the model's own splitter, which serves `Form.FREE` outside of calls."""
        self._form = form
        self._markers = markers
        self._think = think
        self._may_think = think is not None and think.start is not None and initial == "normal"
        self._make_free = free
        self._free = free(initial)
        self._json = JsonEnd()
        self._held = ""
        """Perhaps the beginning of a marker."""
        if form is Form.FREE:
            self._at = _At.FREE
        else:
            self._at = _At.THOUGHTS if initial == "reasoning" and think is not None else _At.START

    @property
    def state(self) -> str:
        return self._free.state if self._at is _At.FREE else _STATES.get(self._at, "normal")

    @property
    def holds_text(self) -> bool:
        return self._free.holds_text if self._at is _At.FREE else bool(self._held)

    def split(self, text: str) -> Iterator[tuple[str, str]]:
        text, self._held = self._held + text, ""
        while text:
            parts: list[tuple[str, str]] = []
            text = self._STEPS[self._at](self, text, parts)
            yield from parts  # whoever reads may `enter` another state after the last of them

    def enter(self, state: str) -> None:
        """After a call that was none: only free text has such, a grammar allows none."""
        self._at, self._free, self._held = _At.FREE, self._make_free(state), ""

    def flush(self) -> tuple[str, str]:
        if self._at is _At.FREE:
            return self._free.flush()
        rest, self._held = self._held, ""
        return self.state, rest

    # Each takes from the front of `text` what belongs to it and returns the rest.

    def _take_free(self, text: str, parts: list[tuple[str, str]]) -> str:
        for index, character in enumerate(text):  # one by one: the splitter must not read into a call
            parts += self._free.split(character)
            if self._free.state == "tool":
                self._at = _At.CALL
                return text[index + 1 :]
        return ""

    def _take_thoughts(self, text: str, parts: list[tuple[str, str]]) -> str:
        assert self._think is not None
        before, rest = self._until(self._think.end, text)
        parts.append(("reasoning", before))
        if rest is None:
            return ""
        self._at = _At.START
        parts.append(("normal", ""))
        return rest

    def _take_start(self, text: str, parts: list[tuple[str, str]]) -> str:
        text = text.lstrip()
        if not text:
            return ""
        if self._may_think:
            assert self._think is not None
            assert self._think.start is not None
            if text.startswith(self._think.start):
                self._may_think, self._at = False, _At.THOUGHTS
                return text[len(self._think.start) :]
            if self._think.start.startswith(text):
                self._held = text
                return ""
        if self._form is not Form.JSON and self._markers is not None:
            if text.startswith(self._markers.start):
                self._may_think, self._at = False, _At.CALL
                return text[len(self._markers.start) :]
            if self._markers.start.startswith(text):
                self._held = text
                return ""
        self._may_think = False
        self._at = _At.CALL if self._form is Form.CALLS and self._markers is None else _At.JSON
        return text

    def _take_json(self, text: str, parts: list[tuple[str, str]]) -> str:
        parts.append(("normal", text))
        return ""

    def _take_call(self, text: str, parts: list[tuple[str, str]]) -> str:
        end = self._json.find(text)
        parts.append(("tool", text[:end]))
        if end is None:
            return ""
        self._json = JsonEnd()
        if self._markers is None:
            self._at = _At.DONE
            parts.append(("normal", ""))
        else:
            self._at = _At.CLOSING
        return text[end:]

    def _take_closing(self, text: str, parts: list[tuple[str, str]]) -> str:
        assert self._markers is not None
        before, rest = self._until(self._markers.end, text)
        parts.append(("tool", before))
        if rest is None:
            return ""
        parts.append(("normal", ""))
        if self._form is Form.FREE:
            self._at, self._free = _At.FREE, self._make_free("normal")
        else:
            self._at = _At.START
        return rest

    def _drop(self, text: str, parts: list[tuple[str, str]]) -> str:
        return ""

    def _until(self, marker: str, text: str) -> tuple[str, str | None]:
        """What stands before the marker, and after it. None: not found; what may be its beginning is held."""
        before, found, rest = text.partition(marker)
        if found:
            return before, rest
        self._held = begun(text, marker)
        return text[: len(text) - len(self._held)], None

    _STEPS: ClassVar = {
        _At.FREE: _take_free,
        _At.THOUGHTS: _take_thoughts,
        _At.START: _take_start,
        _At.JSON: _take_json,
        _At.CALL: _take_call,
        _At.CLOSING: _take_closing,
        _At.DONE: _drop,
    }


class JsonEnd:
    """Finds where an object or array ends that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> int | None:
        """The position after the end, if `text` has it."""
        for index, character in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return index + 1
        return None
