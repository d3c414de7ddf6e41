"""Holds a reply to a grammar: before each token it forbids all that the grammar does not allow.

llguidance keeps the grammar's state and is an extra (`pip install 'mlxk[structured]'`): it is imported when
the first request asks for it. See docs/decisions/0016-structured-replies.md.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxk.workers.answer_splitter import AnswerSplitter, ThinkMarkers
from mlxk.workers.encoder import Encoder
from mlxk.workers.grammar_processor import FreeSplitter, FreeText, GrammarProcessor, Thinking, one_line
from mlxk.workers.grammars import CallMarkers, Form, Grammar, asked_by, grammar, part_text, refusal
from mlxk.workers.marker_tokens import Overruns
from mlxk.workers.prompts import Prompt
from mlxk.workers.protocol import Fault, FaultCode, FaultError, Generate, fault
from mlxk.workers.tool_formats import ToolFormat, json_calls

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_COMPILED = 32
"""Grammars kept, and as many refusals: most clients send the same one again and again."""
JSON_CALLS = "mlx_lm.tool_parsers.json_tools"
"""The parser of models that write a call as one JSON object between markers."""
LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 100_000,
    "max_grammar_size": 10_000,
}
"""llguidance's measures of work; a schema or a step that needs more is given up. The other requests wait
meanwhile. (On two busy cores 1,499 number ranges took 1.9 s, 1,000 optional properties 0.8 s.)"""


@dataclass(slots=True)
class Constraint:
    """One request's constraint, for as long as it runs."""

    form: Form
    processor: GrammarProcessor
    splitter: AnswerSplitter
    tool_format: ToolFormat | None
    """Of calls in the form that they are forced into; None: the model's own."""

    @property
    def ends_reply(self) -> bool:
        """The reply ends with the grammar: at an end of sequence, also where that is to be ignored."""
        return self.form is not Form.FREE

    def restart(self) -> GrammarProcessor:
        """For a new place in the batch, where all tokens so far will come again."""
        self.processor.restart()
        return self.processor

    def check(self) -> None:
        """Raises FaultError if the constraint could not be kept."""
        if self.processor.fault is not None:
            raise FaultError(self.processor.fault)


class Constraints:
    """Constraints of one model's requests."""

    def __init__(self, tokenizer: Any, free_splitter: FreeSplitter) -> None:
        """`tokenizer` is mlx_lm's TokenizerWrapper."""
        self._wrapper = tokenizer
        self._encoder = Encoder(tokenizer)
        self._free_splitter = free_splitter
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._eos = sorted(tokenizer.eos_token_ids)
        self._markers = _json_markers(tokenizer)
        self._thinking: Thinking | None = None
        self._free: FreeText | None = None
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._refusals: OrderedDict[str, Fault] = OrderedDict()

    def constraint(self, request: Generate, prompt: Prompt) -> Constraint | None:
        """None where the request asks for none. Raises FaultError for one that cannot be kept."""
        asked = asked_by(request)
        if asked is None:
            return None
        form, param = asked
        tokenizer = self._ready(param)
        markers = None if form is Form.JSON else self._markers
        if markers is None and form in (Form.FREE, Form.JSON_OR_CALLS):
            raise _unsupported(param, _NOT_JSON_CALLS[form])
        thinking = self._thinking
        may_open = thinking is not None and _may_open(prompt, thinking, self._wrapper)
        wanted = grammar(
            request,
            form,
            markers,
            special=self._special_token,
            after_thoughts=may_open or prompt.initial_state == "reasoning",
        )
        matcher = self._compile(wanted, tokenizer)
        processor = GrammarProcessor(
            matcher,
            tokenizer,
            self._backend,
            n_prompt=len(prompt.tokens),
            eos=self._eos,
            thinking=thinking,
            may_open=may_open,
            initial=prompt.initial_state,
            free=self._free if form is Form.FREE else None,
            banned_in_thoughts=self._call_tokens(),
        )
        think = ThinkMarkers(thinking.start if may_open else None, thinking.end) if thinking else None
        splitter = AnswerSplitter(
            form, markers, think, initial=prompt.initial_state, free=self._free_splitter
        )
        array = form is Form.CALLS and markers is None
        return Constraint(form, processor, splitter, _CALL_ARRAY if array else None)

    def _ready(self, param: str) -> LLTokenizer:
        if self._tokenizer is None:
            self._tokenizer = self._llguidance_tokenizer(param)
            self._thinking = _thinking(self._wrapper)
            if self._markers is not None:
                start = self._markers.start
                self._free = FreeText(self._free_splitter, start, Overruns(self._backend, start))
        return self._tokenizer

    def _llguidance_tokenizer(self, param: str) -> LLTokenizer:
        try:
            from llguidance import LLTokenizer
        except ImportError as error:
            message = (
                f"'{param}' needs llguidance, which is not installed on the server: "
                "pip install 'mlxk[structured]', then restart the server."
            )
            raise fault(FaultCode.UNSUPPORTED_PARAMETER, message, param=param) from error
        if self._backend is None:
            raise _unsupported(param, "its tokenizer has no tokenizer.json (it is not a fast one)")
        if _has_channels(self._wrapper):
            raise _unsupported(param, "it writes its replies in channels, which no grammar here knows")
        try:
            facts = json.loads(self._backend.to_str())
            facts["padding"] = facts["truncation"] = None
            _rename_markers(facts)
            size = self._backend.get_vocab_size(with_added_tokens=True)
            eos = [token for token in self._eos if token < size]
            if not eos:
                raise ValueError("it has no end of sequence")
            return LLTokenizer(json.dumps(facts), eos_token=eos)
        except Exception as error:
            raise _unsupported(param, f"its tokenizer cannot be used for it: {error}") from error

    def _compile(self, wanted: Grammar, tokenizer: LLTokenizer) -> LLMatcher:
        """A matcher at its beginning, the caller's own."""
        text = wanted.text()
        if text in self._refusals:
            self._refusals.move_to_end(text)
            raise FaultError(self._refusals[text])
        found = self._compiled.get(text)
        if found is None:
            found = _matcher(tokenizer, text)
            problem = _problem(found)
            if problem:
                refused = _refused(wanted, tokenizer, problem)
                _keep(self._refusals, text, refused.fault)
                raise refused
            _keep(self._compiled, text, found)
        self._compiled.move_to_end(text)
        return found.deep_copy()

    def _special_token(self, text: str) -> int | None:
        """The token that is this marker and nothing else."""
        found = self._encoder.encode(text, add_special=False)
        if len(found) != 1 or self._tokenizer is None:
            return None
        return int(found[0]) if self._tokenizer.is_special_token(found[0]) else None

    def _call_tokens(self) -> list[int]:
        tokens = self._wrapper.tool_call_start_tokens if self._wrapper.has_tool_calling else ()
        return list(tokens) if len(tokens) == 1 else []


def _keep(kept: OrderedDict[str, Any], text: str, new: Any) -> None:
    if len(kept) >= MAX_COMPILED:
        kept.popitem(last=False)
    kept[text] = new


_CALL_ARRAY = ToolFormat("", "", lambda text, tools: json_calls(text))

_NOT_JSON_CALLS = {
    Form.FREE: "it does not write its calls as JSON; set 'tool_choice' to 'required' or to a function",
    Form.JSON_OR_CALLS: "it does not write its calls as JSON, so a reply cannot be held to either one: send "
    "'tools' with 'tool_choice' 'none', 'required' or a function",
}


def _rename_markers(facts: dict[str, Any]) -> None:
    """In a tokenizer.json: give markers texts that no schema has.

    To llguidance the token "<tool_call>" is a marker and never those characters, but where a schema dictates
    them it tokenizes them into that token all the same, and ends in an error. Grammars name markers by id.
    """
    vocabulary = facts["model"]["vocab"]
    for added in facts["added_tokens"]:
        old = added["content"]
        if not (added["special"] or (old.startswith("<") and old.endswith(">"))):
            continue
        new = added["content"] = f"<\ue000{added['id']}\ue000>"
        added["special"] = True
        if isinstance(vocabulary, dict):
            if old in vocabulary:
                vocabulary[new] = vocabulary.pop(old)
        else:  # Unigram: [text, score] in the order of ids
            for entry in vocabulary[added["id"] : added["id"] + 1]:
                entry[0] = new if entry[0] == old else entry[0]
    facts["post_processor"] = None  # adds markers by name


def _unsupported(param: str, why: str) -> FaultError:
    message = f"'{param}' is not supported for this model: {why}."
    return fault(FaultCode.UNSUPPORTED_PARAMETER, message, param=param)


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(verbose_errors=False, **LIMITS)


def _matcher(tokenizer: LLTokenizer, text: str) -> LLMatcher:
    from llguidance import LLMatcher

    return LLMatcher(tokenizer, text, log_level=0, limits=_limits())


def _problem(matcher: LLMatcher) -> str:
    """Why no reply can follow it; "" if one can begin."""
    if not matcher.is_error():
        probe = matcher.deep_copy()
        probe.compute_bitmask()  # finds grammars that no text satisfies
        if not probe.is_error():
            return ""
        return "no JSON text satisfies it, or it is too complex"
    return matcher.get_error()


def _refused(wanted: Grammar, tokenizer: LLTokenizer, problem: str) -> FaultError:
    """Names the schema that is at fault, if one alone is."""
    for part in wanted.parts:
        own = _problem(_matcher(tokenizer, part_text(part)))
        if own:
            return refusal(part.param, one_line(own))
    params = ", ".join(dict.fromkeys(part.param for part in wanted.parts))
    return refusal(params, one_line(problem))


# ------------------------------------------------------------------------------ model


def _thinking(tokenizer: Any) -> Thinking | None:
    """For a fast tokenizer."""
    if not tokenizer.has_thinking:
        return None
    return Thinking(
        tokenizer.think_start,
        tokenizer.think_end,
        tuple(tokenizer.think_start_tokens),
        tuple(tokenizer.think_end_tokens),
        Overruns(tokenizer.backend_tokenizer, tokenizer.think_end),
    )


def _json_markers(tokenizer: Any) -> CallMarkers | None:
    if not tokenizer.has_tool_calling or not tokenizer.tool_call_end:
        return None
    if getattr(tokenizer.tool_parser, "__module__", None) != JSON_CALLS:
        return None
    return CallMarkers(tokenizer.tool_call_start, tokenizer.tool_call_end)


def _has_channels(tokenizer: Any) -> bool:
    """Around every part of a reply, also around the answer, stand headers (gpt-oss, kimi_k3, muse_spark)."""
    vocabulary = tokenizer.get_vocab()
    harmony = all(marker in vocabulary for marker in ("<|start|>", "<|channel|>", "<|message|>"))
    return bool(harmony or tokenizer.structural_markers or tokenizer.response_transitions)


def _may_open(prompt: Prompt, thinking: Thinking, tokenizer: Any) -> bool:
    """The model decides whether it thinks: the template has neither opened nor closed its thoughts."""
    if prompt.initial_state == "reasoning":
        return False
    end = tokenizer.rfind_think_end(prompt.tokens)
    return end < 0 or bool(tokenizer.decode(prompt.tokens[end + len(thinking.end_tokens) :]).strip())
