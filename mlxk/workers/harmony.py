"""gpt-oss' reply format, "harmony": a reply is a row of messages, each with a header that names its channel.

    <|channel|>analysis<|message|>thoughts<|end|><|start|>assistant<|channel|>final<|message|>answer<|return|>
    <|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{...}<|call|>

mlx_lm 0.32.2 shows all of this as text. Here the analysis channel becomes reasoning, a message to a function
becomes a call, everything else is content, and no header reaches the client.
Source: OpenAI's description of the format, cookbook.openai.com/articles/openai-harmony.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mlxk.workers.tool_formats import ToolFormat

START, CHANNEL, MESSAGE, END = "<|start|>", "<|channel|>", "<|message|>", "<|end|>"
CALL, RETURN = "<|call|>", "<|return|>"
_BODY_ENDS = (END, CALL, RETURN, START, CHANNEL)
_HEADER_STARTS = (CHANNEL, MESSAGE, START, "<|constrain|>", "to=")
_BUILT_IN = ("python", "browser", "container", "assistant", "user", "all")
"""Recipients that are no function of the client's."""


def speaks_harmony(tokenizer: Any) -> bool:
    try:
        vocabulary = tokenizer.get_vocab()
    except AttributeError:
        return False
    return all(token in vocabulary for token in (START, CHANNEL, MESSAGE, CALL, RETURN))


def add_end_tokens(tokenizer: Any) -> None:
    """A reply ends with either of them; some checkpoints name only the second."""
    for token in (CALL, RETURN):
        tokenizer.add_eos_token(token)


def prompt_state(text: str) -> str:
    """The state that the end of a rendered prompt leaves a reply in."""
    header, found, _ = text.rpartition(START)[2].partition(MESSAGE)
    return _state_of(header)[0] if found else "header"


def tool_format() -> ToolFormat:
    return ToolFormat("", "", _parse, written=_written)


class HarmonySplitter:
    """`pipeline.TextSplitter` for harmony. A call's text is its recipient, a line break, its arguments."""

    def __init__(self, initial: str) -> None:
        self.state = initial
        self._held = ""
        self._first = initial == "header"
        """Nothing has been read yet: a reply held to a grammar may begin without any header."""

    @property
    def holds_text(self) -> bool:
        return bool(self._held)

    def split(self, text: str) -> Iterator[tuple[str, str]]:
        self._held += text
        while True:
            segments = self._header() if self.state == "header" else self._body()
            if not segments:
                return
            yield from segments

    def enter(self, state: str) -> None:
        self.state = state

    def flush(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        if self._first and "<|" not in held:
            self.state = "normal"
        return self.state, held

    def _header(self) -> list[tuple[str, str]]:
        if self._first and not _may_be_header(self._held):
            self._first, self.state = False, "normal"
            return [("normal", "")]
        header, found, rest = self._held.partition(MESSAGE)
        if not found:
            return []
        self._first, self._held = False, rest
        self.state, recipient = _state_of(header)
        return [(self.state, f"{recipient}\n" if recipient else "")]

    def _body(self) -> list[tuple[str, str]]:
        ends = [(at, end) for end in _BODY_ENDS if (at := self._held.find(end)) >= 0]
        state = self.state
        if ends:
            at, end = min(ends)
            body, self._held = self._held[:at], self._held[at + len(end) :]
            if end == CHANNEL:
                self._held = CHANNEL + self._held
            self.state = "header"
            return [(state, body), ("header", "")]
        safe = len(self._held) - _possible_end(self._held)
        body, self._held = self._held[:safe], self._held[safe:]
        return [(state, body)] if body else []


def _state_of(header: str) -> tuple[str, str]:
    """State, and the recipient of a call."""
    recipient = re.search(r"to=([^\s<]+)", header)
    if recipient and recipient[1].split(".")[0] not in _BUILT_IN:
        return "tool", recipient[1]
    channel = re.search(r"<\|channel\|>\s*(\w+)", header)
    return ("reasoning" if channel and channel[1] == "analysis" else "normal"), ""


def _may_be_header(text: str) -> bool:
    begun = text.lstrip()
    return any(begun.startswith(start) or start.startswith(begun) for start in _HEADER_STARTS)


def _possible_end(text: str) -> int:
    """Length of the end of `text` that may become a marker."""
    at = text.rfind("<|")
    if at < 0:
        return int(text.endswith("<"))
    return len(text) - at if any(end.startswith(text[at:]) for end in _BODY_ENDS) else int(text[-1] == "<")


def _parse(text: str, tools: Any) -> dict[str, Any]:
    recipient, _, arguments = text.partition("\n")
    if not arguments.strip():
        raise ValueError("no arguments")
    return {"name": recipient.removeprefix("functions."), "arguments": arguments}


def _written(text: str) -> str:
    """Without markers: its template refuses a history that holds them."""
    recipient, _, arguments = text.partition("\n")
    return f"to={recipient} {arguments}"
