"""Models whose markers are several tokens: any token may run over a marker's end, or cut it in two."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import mlx.core as mx
import pytest
from jsonschema import Draft202012Validator
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import json_tools
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mlxk.store.builtin import builtin_path
from mlxk.workers.constraints import Constraint, Constraints
from mlxk.workers.detokenizer import Detokenizer
from mlxk.workers.markers import Markers
from mlxk.workers.pipeline import Piece, TextPipeline
from mlxk.workers.prompts import Prompt
from mlxk.workers.protocol import Generate
from tests.unit.workers.constrained import CITY, END, MESSAGES, OTHER_END, tool

GLUED = [">\n", ">\n\n", "> ", ">{", ">.", '>\n{"', ">Sure", "]{"]
"""Tokens that hold a marker's last sign and more."""
START, STOP = "[[think", "]]"


class SeveralTokens(TokenizerWrapper):
    """tiny's tokenizer without call tokens, and with thinking marks of several tokens."""

    think_start, think_end, has_thinking = START, STOP, True
    think_start_tokens = think_end_tokens = ()

    def rfind_think_end(self, tokens: list[int]) -> int:
        return -1


@cache
def plain() -> Tokenizer:
    facts = json.loads((builtin_path() / "tokenizer.json").read_text(encoding="utf-8"))
    for added in facts["added_tokens"]:
        for word in ("tool_call", "think"):
            if added["content"] in (f"<{word}>", f"</{word}>"):
                added["content"] = added["content"].replace(word, f"unused_{word}")
    return Tokenizer.from_str(json.dumps(facts))


def encoded(text: str) -> list[int]:
    """Without the glued tokens."""
    return list(plain().encode(text, add_special_tokens=False).ids)


@cache
def wrapper(*, thinks: bool) -> Any:
    copy = Tokenizer.from_str(plain().to_str())
    inner = PreTrainedTokenizerFast(tokenizer_object=copy, eos_token="<|im_end|>")
    inner.add_tokens(GLUED)
    kind = SeveralTokens if thinks else TokenizerWrapper
    made = kind(
        inner,
        eos_token_ids=[END, OTHER_END],
        tool_call_start=json_tools.tool_call_start,
        tool_call_end=json_tools.tool_call_end,
        tool_parser=json_tools.parse_tool_call,
    )
    if thinks:
        kind.think_start_tokens = tuple(encoded(START))
        kind.think_end_tokens = tuple(encoded(STOP))
        assert len(kind.think_start_tokens) > 1
        assert len(kind.think_end_tokens) > 1
    return made


@cache
def made_constraints(*, thinks: bool) -> tuple[Constraints, Markers]:
    markers = Markers(wrapper(thinks=thinks))
    made = Constraints(wrapper(thinks=thinks), lambda state: markers.splitter(state, with_tools=True))
    return made, markers


STRICT = [tool("weather", CITY, strict=True)]
WANTED: dict[str, dict[str, Any]] = {
    "strict": {"tools": STRICT},
    "forced": {"tools": STRICT, "required_tools": ["weather"]},
    "json or calls": {"tools": STRICT, "json_schema": CITY},
    "json": {"json_schema": CITY},
}


class Talk:
    """One constrained reply, token by token."""

    def __init__(self, form: str, *, thinks: bool = False, state: str = "normal") -> None:
        self.wrapper = wrapper(thinks=thinks)
        constraints, self.markers = made_constraints(thinks=thinks)
        self.prompt = encoded("Hello")
        self.request = Generate("r", messages=MESSAGES, **WANTED[form])
        found = constraints.constraint(self.request, Prompt(self.prompt, (), state, True))
        assert found is not None
        self.made: Constraint = found
        self.reply: list[int] = []
        self.width = len(self.wrapper)

    def logits(self, wished: mx.array | None = None) -> list[float]:
        row = mx.zeros((1, self.width)) if wished is None else wished
        kept = self.made.processor(mx.array([*self.prompt, *self.reply]), row)
        self.made.check()
        return list(kept[0].tolist())

    def allowed(self) -> list[str]:
        return [self.wrapper.decode([t]) for t, logit in enumerate(self.logits()) if logit == 0]

    def say(self, text: str) -> None:
        """Through its usual tokens, each of which must be allowed."""
        for token in encoded(text):
            assert self.logits()[token] == 0, (self.text, self.wrapper.decode([token]))
            self.reply.append(token)
        self.logits()

    @property
    def text(self) -> str:
        return str(self.wrapper.decode(self.reply))

    def shown(self) -> Piece:
        pipeline = TextPipeline(
            Detokenizer(self.wrapper.backend_tokenizer),
            stops=[],
            hidden_stops=[],
            splitter=self.made.splitter,
            tool_format=self.made.tool_format or self.markers.tool_format,
            tools=self.request.tools,
        )
        total = Piece()
        for token in self.reply:
            total.extend(pipeline.push(token))
        total.extend(pipeline.finish("<|im_end|>"))
        return total


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.mark.parametrize("form", ["strict", "forced", "json or calls"])
def test_calls_are_written_and_read(form: str) -> None:
    talk = Talk(form)
    assert len(encoded("<tool_call>")) > 1
    talk.say(CALL)
    shown = talk.shown()
    assert [(call.name, call.arguments) for call in shown.tool_calls] == [("weather", '{"city": "Rome"}')]
    assert shown.content == ""


def test_text_stays_free_around_strict_calls() -> None:
    talk = Talk("strict")
    talk.say("I look > here. ")
    talk.say(CALL)
    talk.say("\nAnd again: ")
    talk.say(CALL)
    shown = talk.shown()
    assert len(shown.tool_calls) == 2
    assert (shown.content, shown.reasoning) == ("I look > here. And again: ", "")


def test_no_token_may_run_over_the_start_of_a_call_into_what_the_grammar_forbids() -> None:
    talk = Talk("strict")
    talk.say("<tool_call")
    allowed = talk.allowed()
    assert not {">{", ">.", ">Sure", '>\n{"'} & set(allowed)
    assert {">", ">\n", ">\n\n", "> ", "x", "]{"} <= set(allowed)
    talk.say("s")
    assert {">{", ">.", ">Sure"} <= set(talk.allowed()), "it was no marker"


@pytest.mark.parametrize("glued", [">\n", ">\n\n", "> "])
def test_white_space_may_come_in_the_marker_s_last_token(glued: str) -> None:
    talk = Talk("strict")
    talk.say("<tool_call")
    token = talk.wrapper.convert_tokens_to_ids(glued)
    assert talk.logits()[token] == 0
    talk.reply.append(token)
    assert {text[0] for text in talk.allowed()} == set("\n{")
    talk.say('{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>')
    assert [call.arguments for call in talk.shown().tool_calls] == ['{"city": "Rome"}']


@pytest.mark.parametrize("thinks", [False, True])
@pytest.mark.parametrize("form", ["forced", "json or calls", "json"])
def test_a_model_that_knows_nothing_keeps_the_form(form: str, thinks: bool) -> None:
    for seed in range(12):
        talk, chance = Talk(form, thinks=thinks), random.Random(seed)
        while not talk.reply or talk.reply[-1] not in (END, OTHER_END):
            row = mx.array([[chance.random() for _ in range(talk.width)]])
            logits = talk.logits(row + 3.0 * (mx.arange(talk.width) == END))
            talk.reply.append(max(range(talk.width), key=logits.__getitem__))
            assert len(talk.reply) < 2000
        talk.reply.pop()
        shown = talk.shown()
        assert bool(shown.tool_calls) != bool(shown.content)
        for call in shown.tool_calls:
            Draft202012Validator(CITY).validate(json.loads(call.arguments))
        if shown.content:
            Draft202012Validator(CITY).validate(json.loads(shown.content))


@pytest.mark.parametrize("thinks", [False, True])
def test_a_model_that_knows_nothing_breaks_nothing_where_text_is_free(thinks: bool) -> None:
    favourites = ["<tool", "_call", ">", ">{", ">\n", ">.", '{"', "name", "weather", "]{", "[[think", "]]"]
    for seed in range(12):
        talk, chance = Talk("strict", thinks=thinks), random.Random(seed)
        likely = [t for text in favourites for t in encoded(text)]
        for _ in range(200):
            if chance.random() < 0.1:
                for token in encoded("<tool_call"):
                    if talk.logits()[token] == 0:
                        talk.reply.append(token)
            logits = talk.logits()
            may = [token for token in range(talk.width) if logits[token] == 0]
            liked = [token for token in likely if logits[token] == 0]
            token = chance.choice(liked if liked and chance.random() < 0.8 else may)
            if token in (END, OTHER_END):
                break
            talk.reply.append(token)
        for call in talk.shown().tool_calls:
            Draft202012Validator(CITY).validate(json.loads(call.arguments))


# ---------------------------------------------------------------------------- thoughts


def test_thoughts_with_marks_of_several_tokens_and_the_answer_share_their_beginning() -> None:
    """An array begins like the thoughts' marker; both may go on until they part."""
    WANTED["list"] = {"json_schema": {"type": "array", "items": {"type": "array", "items": {"enum": [1]}}}}
    talk = Talk("list", thinks=True)
    talk.say("[[1]]")
    assert talk.shown().content == "[[1]]"
    talk = Talk("list", thinks=True)
    talk.say("[[think about > it ]]\n[[1], [1, 1]]")
    shown = talk.shown()
    assert (shown.reasoning, shown.content) == ("about > it", "[[1], [1, 1]]")


def test_a_model_that_would_end_in_its_thoughts_writes_all_of_their_end_marker() -> None:
    talk = Talk("json", thinks=True, state="reasoning")
    talk.say("Hm ] so")
    for token in talk.wrapper.think_end_tokens:
        wish = mx.zeros((1, talk.width))
        wish[0, END] = 9.0
        logits = talk.logits(wish)
        assert max(range(talk.width), key=logits.__getitem__) == token
        talk.reply.append(token)
    assert {text[0] for text in talk.allowed()} <= set("\n{")


def test_no_token_runs_over_the_end_of_the_thoughts() -> None:
    talk = Talk("json", thinks=True, state="reasoning")
    talk.say("Hm ]")
    assert "]{" not in talk.allowed()
    talk.say("x")
    assert "]{" in talk.allowed()
