"""The logits processor that holds one reply to its grammar, and lets its thoughts run free."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlxk.workers.detokenizer import Detokenizer
from mlxk.workers.marker_tokens import Overruns, begun
from mlxk.workers.pipeline import TextSplitter
from mlxk.workers.protocol import Fault, FaultCode

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

log = logging.getLogger("mlxk.worker")

FreeSplitter = Callable[[str], TextSplitter]
"""Makes the model's own splitter, in an initial state."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """A model's thoughts, as text and as tokens."""

    start: str
    end: str
    start_tokens: tuple[int, ...]
    end_tokens: tuple[int, ...]
    overruns: Overruns
    """Of `end`."""


@dataclass(frozen=True, slots=True)
class FreeText:
    """What stands outside of calls, where only those are held to a grammar."""

    splitter: FreeSplitter
    call_start: str
    overruns: Overruns
    """Of `call_start`."""


def one_line(problem: str) -> str:
    return " ".join(problem.replace("<non-verbose/>", "").split())[:300].rstrip(".")


class _Phase(Enum):
    OPENING = "opening"
    """Nothing is written yet: the answer may begin, or thoughts."""
    THOUGHTS = "thoughts"
    FREE = "free"
    """Text, until a call begins."""
    GRAMMAR = "grammar"
    DONE = "done"


class Broken(Exception):
    """The constraint cannot be kept."""


@dataclass(slots=True)
class GrammarProcessor:
    """A logits processor of mlx_lm: (all tokens so far, logits [1, vocabulary]) to logits.

    Its state follows from the tokens after the prompt alone. It never raises: a fault inside the shared step
    would be everybody's. It must come last of all processors: what they add to a forbidden token is lost.
    """

    start: LLMatcher
    tokenizer: LLTokenizer
    backend: Any
    n_prompt: int
    eos: list[int]
    thinking: Thinking | None
    may_open: bool
    initial: str
    free: FreeText | None
    banned_in_thoughts: list[int]
    fault: Fault | None = None
    _matcher: LLMatcher = field(init=False)
    _phase: _Phase = field(init=False)
    _read: int = field(init=False)
    """Tokens after the prompt that the state has seen."""
    _opened: int = field(init=False)
    """Tokens of the opening marker that are written."""
    _may_answer: bool = field(init=False)
    """While thoughts may be opened: what is written may be the beginning of the answer as well."""
    _closed: int = field(init=False)
    """Tokens of the thoughts' end marker that are written."""
    _tail: str = field(init=False)
    """The end of the text so far: perhaps the beginning of the marker that is waited for."""
    _detokenizer: Detokenizer = field(init=False)
    _splitter: TextSplitter | None = field(init=False)
    _redirects: dict[tuple[str, int], tuple[mx.array, mx.array]] = field(init=False, default_factory=dict)
    _overruns: dict[str, mx.array | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.fault = None  # of a batch that is no more
        self._matcher = self.start.deep_copy()
        self._read = self._opened = self._closed = 0
        self._may_answer = True
        self._tail = ""
        self._detokenizer = Detokenizer(self.backend)
        self._splitter = None
        if self.free is not None:
            self._phase, self._splitter = _Phase.FREE, self.free.splitter(self.initial)
        elif self.initial == "reasoning" and self.thinking is not None:
            self._phase = _Phase.THOUGHTS
        else:
            self._phase = _Phase.OPENING if self.may_open else _Phase.GRAMMAR

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self.fault is not None or self._phase is _Phase.DONE:
            return logits
        # The state needs the last token, and waiting for it empties the queue of the device: first give it
        # this step's forward pass, which then runs while the grammar looks for what may follow. What that
        # raises is the whole batch's failure, not this constraint's.
        mx.async_eval(logits)
        news: list[int] = tokens[self.n_prompt + self._read :].tolist()
        try:
            for token in news:
                self._read += 1
                self._take(token)
            return self._constrained(logits)
        except Exception as error:
            log.warning("a constraint could not be kept", exc_info=not isinstance(error, Broken))
            message = f"The reply could not be held to its grammar: {one_line(str(error))}."
            self.fault = Fault(FaultCode.ENGINE_ERROR, message)
            return logits

    # ----------------------------------------------------------------------- tokens

    def _take(self, token: int) -> None:
        if self._phase is _Phase.OPENING:
            self._take_opening(token)
        elif self._phase is _Phase.THOUGHTS:
            self._take_thought(token)
        elif self._phase is _Phase.FREE:
            self._take_free(token)
        elif self._phase is _Phase.GRAMMAR:
            self._take_answer(token)

    def _take_opening(self, token: int) -> None:
        assert self.thinking is not None
        if token != self.thinking.start_tokens[self._opened]:
            self._phase, self._opened = _Phase.GRAMMAR, 0
            self._take_answer(token)
            return
        self._opened += 1
        if self._opened == len(self.thinking.start_tokens):
            self._phase, self._opened = _Phase.THOUGHTS, 0
            self._matcher = self.start.deep_copy()
        elif self._may_answer:
            self._may_answer = bool(self._matcher.validate_tokens([token]))
            if self._may_answer:
                self._matcher.consume_token(token)

    def _take_thought(self, token: int) -> None:
        assert self.thinking is not None
        end = self.thinking.end_tokens
        self._closed = self._closed + 1 if token == end[self._closed] else int(token == end[0])
        self._closed %= len(end)
        text = self._tail + self._detokenizer.push(token)
        _, found, rest = text.partition(self.thinking.end)
        if found:
            self._phase = _Phase.GRAMMAR
            self._take_text(rest.lstrip())
        else:
            self._tail = begun(text, self.thinking.end)

    def _take_free(self, token: int) -> None:
        assert self._splitter is not None
        assert self.free is not None
        text = self._detokenizer.push(token)
        for index, character in enumerate(text):
            deque(self._splitter.split(character), maxlen=0)  # an iterator that works while it is read
            if self._splitter.state == "tool":
                self._phase = _Phase.GRAMMAR
                self._take_text(text[index + 1 :].lstrip())
                return
        self._tail = begun(self._tail + text, self.free.call_start)

    def _take_text(self, text: str) -> None:
        """What a token holds after a marker: it belongs to the grammar already."""
        if text and not self._matcher.consume_tokens(self.tokenizer.tokenize_str(text)):
            raise Broken(self._matcher.get_error())

    def _take_answer(self, token: int) -> None:
        if token in self.eos and self._matcher.is_accepting():
            self._phase = _Phase.DONE
        elif not self._matcher.consume_token(token):
            raise Broken(self._matcher.get_error())
        elif self.free is not None and self._matcher.is_stopped():  # the call is over, and text may follow
            self._matcher = self.start.deep_copy()
            self._detokenizer = Detokenizer(self.backend)
            self._phase, self._splitter = _Phase.FREE, self.free.splitter("normal")
            self._tail = ""

    # ----------------------------------------------------------------------- logits

    def _constrained(self, logits: mx.array) -> mx.array:
        if self._phase is _Phase.DONE:
            return logits
        if self._phase is _Phase.FREE:
            return self._free(logits)
        if self._phase is _Phase.THOUGHTS:
            return self._thoughtful(logits)
        width = logits.shape[-1]
        opening: mx.array | None = None
        if self._phase is _Phase.OPENING:
            assert self.thinking is not None
            opening = _only([self.thinking.start_tokens[self._opened]], width)
        if opening is not None and not self._may_answer:
            return mx.where(opening, logits, -mx.inf)
        allowed = _unpacked(self._matcher.compute_bitmask(), width)
        if self._matcher.is_error():
            raise Broken(self._matcher.get_error())
        if opening is not None:
            allowed = mx.logical_or(allowed, opening)
        return mx.where(allowed, logits, -mx.inf)

    def _free(self, logits: mx.array) -> mx.array:
        """Text runs free, but a call's marker ends where a token ends, or the grammar could not follow."""
        assert self.free is not None
        if self._tail not in self._overruns:
            banned = self.free.overruns.after(self._tail)
            self._overruns[self._tail] = _only(banned, logits.shape[-1]) if banned else None
        banned_here = self._overruns[self._tail]
        return logits if banned_here is None else mx.where(banned_here, -mx.inf, logits)

    def _thoughtful(self, logits: mx.array) -> mx.array:
        """Thoughts run free, but neither the reply nor a call may begin inside them: where the model would
        do either, it ends its thoughts."""
        assert self.thinking is not None
        here = self._tail, self._closed
        if here not in self._redirects:
            width = logits.shape[-1]
            overruns = self.thinking.overruns.after(self._tail)
            banned = _only([*self.eos, *self.banned_in_thoughts, *overruns], width)
            self._redirects[here] = banned, _only([self.thinking.end_tokens[self._closed]], width)
        banned, end = self._redirects[here]
        wish = mx.max(mx.where(banned, logits, -mx.inf), axis=-1, keepdims=True)
        return mx.where(banned, -mx.inf, mx.where(end, mx.maximum(logits, wish), logits))


def _only(tokens: list[int], width: int) -> mx.array:
    return mx.any(mx.arange(width)[None] == mx.array(tokens)[:, None], axis=0)


def _unpacked(bits: bytes, width: int) -> mx.array:
    """One bit a token to one bool a logit. A model may have more logits than its tokenizer has tokens."""
    flat = mx.array(memoryview(bits))
    allowed = ((flat[:, None] >> mx.arange(8, dtype=mx.uint8)) & 1).reshape(-1).astype(mx.bool_)
    missing = width - allowed.shape[0]
    return mx.pad(allowed, (0, missing)) if missing > 0 else allowed[:width]
