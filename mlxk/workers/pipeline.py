"""From tokens to what the client sees; one path for streams and whole replies.

detokenizer -> stop strings -> reasoning and tool-call splitter -> hidden stop strings -> deltas. Because a
whole reply is the sum of the deltas, a stream and a reply of the same request cannot differ. The rules and
their reasons: docs/decisions/0017-text-pipeline.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlxk.workers.protocol import TokenLogprob, ToolCall
from mlxk.workers.stops import StopMatch, StopMatcher
from mlxk.workers.tool_formats import ToolFormat


class StreamDecoder(Protocol):
    def push(self, token: int) -> str: ...
    def flush(self) -> str: ...


class TextSplitter(Protocol):
    """A running state machine over decoded text: "normal", "reasoning", "tool" or "header"."""

    @property
    def state(self) -> str: ...
    @property
    def holds_text(self) -> bool:
        """The end of the text so far may be the beginning of a marker."""
        ...

    def split(self, text: str) -> Iterator[tuple[str, str]]:
        """(state, text) segments, one marker at a time: `enter` between two of them holds for the rest."""
        ...

    def enter(self, state: str) -> None: ...
    def flush(self) -> tuple[str, str]: ...


@dataclass(slots=True)
class Piece:
    """What one step adds to a reply."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the content's tokens (`logprobs.TracedPipeline`); empty for requests that do not ask."""

    def extend(self, more: Piece) -> None:
        self.content += more.content
        self.reasoning += more.reasoning
        self.tool_calls.extend(more.tool_calls)
        self.logprobs.extend(more.logprobs)

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
        hidden = [stop for stop in hidden_stops if stop not in stops]
        # Where a reply begins with a header, the raw text is full of words that no client sees: there the
        # stop strings are looked for in what the client sees.
        raw, shown = ([], stops) if splitter is not None and splitter.state == "header" else (stops, [])
        self._matcher = StopMatcher(raw)
        self._content_matcher = StopMatcher([*shown, *hidden])
        self._reasoning_matcher = StopMatcher(shown)
        self._splitter = splitter
        self._tool_format = tool_format
        self._tools = tools
        self._state = "normal" if splitter is None else splitter.state
        self._call_text = ""
        self._call_ids: set[str] = set()
        self._call_from = "normal"
        """The state in which the call began."""
        self._trim_content = False
        """After reasoning or a call, white space before the next content is the format's, not the reply's."""
        self._trim_reasoning = True
        self._held_space = ""
        self._thoughts_gap = self._content_gap = ""
        """Between two blocks of the same kind, when both have text."""
        self._has_content = False
        self._uncounted_thoughts = 0
        self._over = False
        """A stop string was found in what the client sees: nothing more is shown."""
        self.stopped = False
        self.matched_stop: str | None = None
        self.made_tool_calls = False
        self.reasoning_tokens = 0
        """Tokens of the thoughts, without their markers."""

    @property
    def in_reasoning(self) -> bool:
        return self._splitter is not None and self._splitter.state == "reasoning"

    def push(self, token: int) -> Piece:
        piece = Piece()
        thought = self.in_reasoning
        self._match(self._decoder.push(token), piece)
        if thought:
            self._count_thought()
        return piece

    def finish(self, end_text: str | None = None) -> Piece:
        """Let go of everything that was held back. After a stop match nothing is.

        `end_text`: that of the token by which the model ended the reply; None when something else did.
        """
        piece = Piece()
        if not self.stopped:
            self._match(self._decoder.flush(), piece)
        if not self.stopped:
            self._split(self._matcher.flush(), piece)
        self._close(piece, by_the_model=end_text is not None)
        if end_text in self._reported and not self.stopped:
            self.matched_stop = end_text
        return piece

    # ------------------------------------------------------------------------ stops

    def _match(self, text: str, piece: Piece) -> None:
        if not text:
            return
        found = self._matcher.push(text)
        if isinstance(found, StopMatch):
            self._stop(found)
            found = found.text
        self._split(found, piece)

    def _stop(self, match: StopMatch) -> None:
        self.stopped = True
        self.matched_stop = match.stop if match.stop in self._reported else None

    def _shown(self, matcher: StopMatcher, text: str) -> str:
        """The part of `text` that may be shown now."""
        found = matcher.push(text)
        if isinstance(found, StopMatch):
            self._stop(found)
            self._over = True
            return found.text
        return found

    # --------------------------------------------------------------- thoughts and content

    def _split(self, text: str, piece: Piece) -> None:
        if not text:
            return
        if self._splitter is None:
            self._add("normal", text, piece)
            return
        for state, part in self._splitter.split(text):
            if self._over:
                return
            if state != self._state:
                self._state = self._cross(self._state, state, piece)
            self._add(state, part, piece)

    def _add(self, state: str, text: str, piece: Piece) -> None:
        if not text or self._over:
            return
        if state == "tool":
            self._call_text += text
        elif state == "reasoning":
            self._add_reasoning(text, piece)
        elif state == "normal":
            self._add_content(text, piece)

    def _add_content(self, text: str, piece: Piece) -> None:
        if self._trim_content:
            text = text.lstrip()
        if not text:
            return
        self._trim_content = False
        self._has_content = True
        text, self._content_gap = self._content_gap + text, ""
        piece.content += self._shown(self._content_matcher, text)

    def _add_reasoning(self, text: str, piece: Piece) -> None:
        """White space around the thoughts belongs to the markers; inside it belongs to the thoughts."""
        if self._trim_reasoning:
            text = text.lstrip()
        if not text:
            return
        self._trim_reasoning = False
        text, self._thoughts_gap = self._thoughts_gap + text, ""
        self._show_thoughts(self._shown(self._reasoning_matcher, text), piece)

    def _show_thoughts(self, text: str, piece: Piece) -> None:
        text = self._held_space + text
        kept = text.rstrip()
        self._held_space = text[len(kept) :]
        piece.reasoning += kept

    def _count_thought(self) -> None:
        """A token after which the thoughts are over was part of their marker, like those held back before."""
        self._uncounted_thoughts += 1
        if not self.in_reasoning:
            self._uncounted_thoughts = 0
        elif self._splitter is not None and not self._splitter.holds_text:
            self._count_thoughts()

    def _count_thoughts(self) -> None:
        self.reasoning_tokens += self._uncounted_thoughts
        self._uncounted_thoughts = 0

    # ---------------------------------------------------------------------- markers

    def _cross(self, old: str, new: str, piece: Piece) -> str:
        """Between two states; returns the one that holds from here on."""
        if new == "tool":
            self._call_from = old
            if old == "normal":
                self._end_content(piece, gap="")
            return new
        if old == "tool":
            if self._finish_call(piece, marked=True):
                if self._call_from == "reasoning":
                    self._end_thoughts(piece)
                self._trim_content = True
            elif self._call_from == "reasoning" and self._splitter is not None:
                # Thoughts that spoke of a call go on.
                self._splitter.enter("reasoning")
                return "reasoning"
        elif old == "reasoning":
            self._end_thoughts(piece)
        elif old == "normal":
            self._end_content(piece, gap="\n\n" if new == "header" else "")
        return new

    def _end_thoughts(self, piece: Piece) -> None:
        self._show_thoughts(self._reasoning_matcher.flush(), piece)
        self._held_space = ""
        self._thoughts_gap = "" if self._trim_reasoning else "\n"
        self._trim_reasoning = True
        self._trim_content = True

    def _end_content(self, piece: Piece, *, gap: str) -> None:
        piece.content += self._content_matcher.flush()
        self._content_gap = gap if self._has_content else ""

    def _close(self, piece: Piece, *, by_the_model: bool) -> None:
        """Everything that was read has been pushed through the stop strings: what is held comes out."""
        if self._splitter is not None and not self._over:
            state, rest = self._splitter.flush()
            if state == "tool":
                self._finish_call(piece, by_the_model=by_the_model, rest=rest)
            else:
                self._add(state, rest, piece)
            if state == "reasoning":
                self._count_thoughts()
        if not self._over:
            self._show_thoughts(self._reasoning_matcher.flush(), piece)
            piece.content += self._content_matcher.flush()

    # ------------------------------------------------------------------------ calls

    def _finish_call(
        self, piece: Piece, *, marked: bool = False, by_the_model: bool = False, rest: str = ""
    ) -> bool:
        """Whether it was a call. `rest`: the end of a reply that was cut in what may be the end marker."""
        text, self._call_text = self._call_text, ""
        form = self._tool_format
        closed = marked or by_the_model
        calls = form.calls(text, self._tools, closed=closed) if form is not None else []
        if form is not None and calls:
            self.made_tool_calls = True
            piece.tool_calls.extend(self._with_own_id(call, form) for call in calls)
            return True
        # Malformed, or no tools were offered: the client gets what the model wrote, where it wrote it.
        text += rest
        written = text if form is None else form.as_text(text, marked=marked)
        self._add(self._call_from if self._call_from == "reasoning" else "normal", written, piece)
        return False

    def _with_own_id(self, call: ToolCall, form: ToolFormat) -> ToolCall:
        """Some models write ids, and the same one twice: a client could not tell the results apart."""
        if call.id in self._call_ids:
            call = ToolCall(form.new_id(), call.name, call.arguments)
        self._call_ids.add(call.id)
        return call
