"""What a model's replies are made of: its thinking marks, its tool calls, its headers."""

from __future__ import annotations

from typing import Any

from mlxk.workers import harmony, tool_formats
from mlxk.workers.marker_splitter import MarkedText, MarkerSplitter
from mlxk.workers.pipeline import TextSplitter


class Markers:
    """One model's. Made once, when it is loaded; `splitter` is called for each reply."""

    def __init__(self, tokenizer: Any) -> None:
        self._is_harmony = harmony.speaks_harmony(tokenizer)
        self._marked = MarkedText(tokenizer)
        self._marked_without_tools = MarkedText(tokenizer, with_tools=False)
        self.tool_format = harmony.tool_format() if self._is_harmony else tool_formats.tool_format(tokenizer)
        transitions = tokenizer.response_transitions
        self.has_reasoning = self._is_harmony or bool(tokenizer.has_thinking) or "reasoning" in transitions
        if self._is_harmony:
            harmony.add_end_tokens(tokenizer)

    def splitter(self, initial: str, *, with_tools: bool) -> TextSplitter:
        """`with_tools`: tools were offered. Else what looks like a call is text and need not be held back."""
        if self._is_harmony:
            return harmony.HarmonySplitter(initial)
        return MarkerSplitter(self._marked if with_tools else self._marked_without_tools, initial)
