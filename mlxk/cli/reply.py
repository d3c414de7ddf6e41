"""Showing a reply while it comes: plain text, with headings once a model thinks aloud."""

from __future__ import annotations

from typing import TextIO

REASONING = "**[Reasoning]**\n"
ANSWER = "**[Answer]**\n"


class ReplyWriter:
    """Writes the parts of one reply to `stream` as they come.

    Without reasoning the output is the answer and nothing else; with it, both have a heading.
    """

    def __init__(self, stream: TextIO, *, hide_reasoning: bool) -> None:
        self._stream = stream
        self._hide_reasoning = hide_reasoning
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
        self._last = text[-1]
        self._stream.write(text)
