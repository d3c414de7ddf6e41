"""Showing a reply while it comes: plain text, with headings once a model thinks aloud."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TextIO

from mlxk.cli.completions import ReplyPart

REASONING = "**[Reasoning]**\n"
ANSWER = "**[Answer]**\n"

_VISIBLE = {code: f"^{chr(code ^ 0x40)}" for code in [*range(0x20), 0x7F] if chr(code) not in "\n\t\r"}
"""Control characters as `cat -v` shows them: at a terminal a model could retitle the window, recolor it, or
make it answer with text that the next shell takes for typed."""
_VISIBLE |= {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}  # ESC [ in one character, and its kin
_VISIBLE[0x0D] = ""  # a carriage return alone would write over the line


@dataclass(slots=True)
class Reply:
    """A reply as far as it has come."""

    content_parts: list[str] = field(default_factory=list)
    reasoning_parts: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None

    def add(self, part: ReplyPart) -> None:
        self.content_parts.append(part.content)
        self.reasoning_parts.append(part.reasoning)
        self.finish_reason = part.finish_reason or self.finish_reason
        self.usage = part.usage or self.usage

    @property
    def content(self) -> str:
        return "".join(self.content_parts)

    @property
    def reasoning(self) -> str:
        return "".join(self.reasoning_parts)

    @property
    def used_tokens(self) -> int | None:
        """Of the context: prompt and reply. None: the server has not told."""
        if self.usage is None:
            return None
        counts = [self.usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
        return sum(count for count in counts if isinstance(count, int))

    def fills(self, context_length: int | None) -> bool:
        """Whether the context is full with it. False also where that is not known."""
        used = self.used_tokens
        return context_length is not None and used is not None and used >= context_length


class ReplyWriter:
    """Writes the parts of one reply to `stream` as they come.

    Without reasoning the output is the answer and nothing else; with it, both have a heading. A terminal
    gets no control characters, a pipe every byte.
    """

    def __init__(self, stream: TextIO, *, hide_reasoning: bool) -> None:
        self._stream = stream
        self._hide_reasoning = hide_reasoning
        self._is_terminal = stream.isatty()
        self._heading: str | None = None
        self._last = "\n"
        """The last character that was written."""

    def write(self, content: str, reasoning: str) -> None:
        if reasoning and not self._hide_reasoning:
            self._under(REASONING)
            self._put(reasoning)
        if content:
            if self._heading is not None:
                self._under(ANSWER)
            self._put(content)
        self._stream.flush()

    def end_line(self) -> None:
        """Leave the terminal on a fresh line, whatever came last (or nothing at all)."""
        if self._last != "\n":
            self._put("\n")
        self._stream.flush()

    def _under(self, heading: str) -> None:
        if self._heading != heading:
            first = self._heading is None and self._last == "\n"
            self._put(heading if first else f"\n\n{heading}")
            self._heading = heading

    def _put(self, text: str) -> None:
        shown = text.translate(_VISIBLE) if self._is_terminal else text
        if shown:
            self._last = shown[-1]
            self._stream.write(shown)
