"""A reply's text, cut at the model's thinking and tool markers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mlxk.workers import mlx_adapter as adapter


class MarkedText:
    """What one tokenizer's markers are. `with_tools`: tools were offered; else a call is text."""

    def __init__(self, tokenizer: Any, *, with_tools: bool = True) -> None:
        # Formats with headers know from the header what follows; a call without tools must not end up in one.
        seen = tokenizer if with_tools or tokenizer.response_transitions else _WithoutTools(tokenizer)
        self.machine = adapter.MarkerMachine(seen)
        markers = [seen.think_start, seen.think_end, *seen.structural_markers]
        markers += [text for edges in seen.response_transitions.values() for text, _ in edges]
        if seen.has_tool_calling:
            markers += [seen.tool_call_start, seen.tool_call_end]
        last = "".join(sorted({re.escape(marker[-1]) for marker in markers if marker}))
        self.ends = re.compile(f"(?<=[{last}])" if last else r"(?!)")
        """Just behind each character that may complete a marker."""


class MarkerSplitter:
    """A sequence's position in a model's markers (`pipeline.TextSplitter`)."""

    def __init__(self, marked: MarkedText, initial: str) -> None:
        self._machine = marked.machine
        self._ends = marked.ends
        self._state = self._machine.state(initial)

    @property
    def state(self) -> str:
        return adapter.state_name(self._state)

    @property
    def holds_text(self) -> bool:
        return adapter.holds_text(self._state)

    def split(self, text: str) -> Iterator[tuple[str, str]]:
        if self._machine.leaves_whole(self._state, text):  # nearly all text: several times faster
            yield self.state, text
            return
        # At most one marker in each piece, at its end: whoever reads may `enter` another state after it.
        for piece in self._ends.split(text):
            self._state, parts = self._machine.split(self._state, piece)
            yield from parts

    def enter(self, state: str) -> None:
        self._state = self._machine.state(state)

    def flush(self) -> tuple[str, str]:
        self._state, rest, name = self._machine.flush(self._state)
        return name, rest


class _WithoutTools:
    has_tool_calling = False

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)
