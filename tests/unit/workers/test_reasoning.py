"""Thoughts apart from the answer, for each kind of thinking marks that mlx_lm knows, and for gpt-oss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxk.workers.detokenizer import Detokenizer
from mlxk.workers.harmony import HarmonySplitter, prompt_state
from mlxk.workers.markers import Markers
from mlxk.workers.pipeline import Piece, TextPipeline
from tests.unit.workers.cuts import cut, cuts
from tests.unit.workers.families import HARMONY_TOKENS, TOOLS, XTML_TOKENS, Said, family_tokenizer

THOUGHT = "I add 2 and 3.\n\nThat is 5."
ANSWER = "It is 5 🙂."
END = "<|im_end|>"


@dataclass(frozen=True)
class Marks:
    added: tuple[str, ...]
    start: str
    end: str
    before: str = ""
    """What stands between the thoughts and the answer."""
    after: str = ""
    family: str = "none"
    state: str = "normal"


KINDS = {
    "think": Marks(("<think>", "</think>"), "<think>\n", "\n</think>\n\n"),
    "longcat": Marks(("<longcat_think>", "</longcat_think>"), "<longcat_think>\n", "\n</longcat_think>\n"),
    "think:start": Marks(("<|think:start|>", "<|think:end|>"), "<|think:start|>", "<|think:end|>"),
    "gemma4": Marks(("<|channel>", "<channel|>"), "<|channel>thought\n", "\n<channel|>"),
    "kimi_k3": Marks(
        tuple(XTML_TOKENS),
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|>",
        "<|open|>response<|sep|>",
        "<|close|>response<|sep|><|close|>message<|sep|>",
    ),
    "muse_spark": Marks(
        (), "to=self<|message|>", "<|eom|>", "to=user<|message|>", "<|eot|>", "muse_spark", "header"
    ),
    "gpt-oss": Marks(
        tuple(HARMONY_TOKENS),
        "<|channel|>analysis<|message|>",
        "<|end|>",
        "<|start|>assistant<|channel|>final<|message|>",
        "<|return|>",
        state="header",
    ),
}


@cache
def tokenizer_of(kind: str) -> Any:
    marks = KINDS[kind]
    return family_tokenizer(marks.family, added=marks.added)


@dataclass
class Heard:
    content: str
    reasoning: str
    reasoning_tokens: int
    matched: str | None = None


def hear(
    kind: str, text: str, *, state: str | None = None, stops: list[str] | None = None, end: bool = True
) -> Heard:
    """`text` as the model's tokens, one by one."""
    tokenizer = tokenizer_of(kind)
    markers = Markers(tokenizer)
    assert markers.has_reasoning
    pipeline = TextPipeline(
        Detokenizer(tokenizer.backend_tokenizer),
        stops=stops or [],
        hidden_stops=["\nUser:"],
        splitter=markers.splitter(state or KINDS[kind].state, with_tools=False),
    )
    total = Piece()
    for token in tokenizer.encode(text, add_special_tokens=False):
        total.extend(pipeline.push(token))
        if pipeline.stopped:
            break
    total.extend(pipeline.finish(END if end else None))
    return Heard(total.content, total.reasoning, pipeline.reasoning_tokens, pipeline.matched_stop)


def n_tokens(kind: str, text: str) -> int:
    return len(tokenizer_of(kind).encode(text, add_special_tokens=False))


@pytest.mark.parametrize("kind", KINDS)
def test_thoughts_and_answer_are_apart_and_no_mark_is_shown(kind: str) -> None:
    marks = KINDS[kind]
    heard = hear(kind, f"{marks.start}{THOUGHT}{marks.end}{marks.before}{ANSWER}{marks.after}")
    assert (heard.content, heard.reasoning) == (ANSWER, THOUGHT)
    assert abs(heard.reasoning_tokens - n_tokens(kind, THOUGHT)) <= 2  # the white space of the marks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ended", [True, False], ids=["ended by the model", "cut"])
def test_a_model_that_stops_inside_of_its_thoughts_has_said_nothing(kind: str, ended: bool) -> None:
    heard = hear(kind, KINDS[kind].start + THOUGHT, end=ended)
    assert (heard.content, heard.reasoning) == ("", THOUGHT)
    assert abs(heard.reasoning_tokens - n_tokens(kind, THOUGHT)) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_closing_mark_at_the_end_is_a_part_of_the_thoughts(kind: str) -> None:
    assert hear(kind, KINDS[kind].start + "a <", end=False).reasoning == "a <"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_string_counts_in_thoughts_and_a_hidden_one_does_not(kind: str) -> None:
    marks = KINDS[kind]
    heard = hear(kind, f"{marks.start}One.\nUser: two. Three{marks.end}", stops=["two"])
    assert (heard.content, heard.reasoning, heard.matched) == ("", "One.\nUser:", "two")


@pytest.mark.parametrize("kind", KINDS)
def test_a_hidden_stop_string_ends_the_answer(kind: str) -> None:
    marks = KINDS[kind]
    heard = hear(kind, f"{marks.start}T{marks.end}{marks.before}Yes.\nUser: and now?")
    assert (heard.content, heard.reasoning, heard.matched) == ("Yes.", "T", None)


@pytest.mark.parametrize("kind", [kind for kind, marks in KINDS.items() if marks.state == "normal"])
def test_thoughts_that_the_template_opened(kind: str) -> None:
    marks = KINDS[kind]
    text = f"{THOUGHT}{marks.end}{marks.before}{ANSWER}{marks.after}"
    heard = hear(kind, text, state="reasoning")
    assert (heard.content, heard.reasoning) == (ANSWER, THOUGHT)


def test_only_the_tokens_between_the_marks_are_counted() -> None:
    thought = "abc def ghi"
    exact = n_tokens("think", thought)
    assert hear("think", f"<think>{thought}</think>Yes.").reasoning_tokens == exact
    assert hear("think", f"{thought}</think>Yes.", state="reasoning").reasoning_tokens == exact
    assert hear("think", thought, state="reasoning").reasoning_tokens == exact
    assert hear("gpt-oss", f"<|channel|>analysis<|message|>{thought}<|end|>").reasoning_tokens == exact
    assert hear("kimi_k3", f"<|open|>think<|sep|>{thought}<|close|>think<|sep|>").reasoning_tokens == exact
    assert hear("think", "Yes.").reasoning_tokens == 0


def test_several_blocks_of_thoughts_are_lines_of_their_own() -> None:
    heard = hear("think", "<think>one</think>A<think>two</think>B")
    assert (heard.reasoning, heard.content) == ("one\ntwo", "AB")


# ------------------------------------------------------------------------------ gpt-oss


def harmony(text: str | list[str], **more: Any) -> Said:
    return Said("harmony", text, end_text="<|return|>", **more)


FINAL = "<|start|>assistant<|channel|>final<|message|>"


def test_no_stop_string_matches_in_a_header() -> None:
    """The client sees no header, so `final` and `assistant` are not in the reply."""
    said = harmony(f"<|channel|>analysis<|message|>Hm.<|end|>{FINAL}The final word.", stops=["final"])
    assert (said.content, said.reasoning, said.matched) == ("The ", "Hm.", "final")
    whole = harmony(f"<|channel|>analysis<|message|>Hm.<|end|>{FINAL}Yes.", stops=["assistant", "<|end|>"])
    assert (whole.content, whole.matched) == ("Yes.", None)


def test_a_preamble_and_the_answer_are_paragraphs() -> None:
    said = harmony(f"<|channel|>commentary<|message|>I look.<|end|>{FINAL}It is 5.")
    assert said.content == "I look.\n\nIt is 5."


def test_a_call_to_a_tool_of_the_models_own_is_a_thought() -> None:
    said = harmony(f"<|channel|>analysis to=python code<|message|>1+1<|call|>{FINAL}2")
    assert (said.reasoning, said.content, said.calls) == ("1+1", "2", [])


def test_a_call_on_the_analysis_channel_is_a_call() -> None:
    said = harmony('<|channel|>analysis to=functions.weather code<|message|>{"city": "Rome"}<|call|>')
    assert said.named == [["weather", {"city": "Rome"}]]


@pytest.mark.parametrize("text", ['{"a": 1}', "Plain words.", "t", "[1]", " a"])
def test_a_reply_without_any_header_is_content(text: str) -> None:
    """As a grammar forces it."""
    assert harmony(text).content == text
    assert harmony(list(text)).content == text


def test_a_header_that_was_cut_is_not_shown() -> None:
    for text in ("<|channel|>ana", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assis", "<|channel|>"):
        said = harmony(text)
        assert (said.content, said.calls) == ("", [])


def test_the_prompts_end_tells_where_a_reply_begins() -> None:
    assert prompt_state("<|start|>user<|message|>Hi<|end|><|start|>assistant") == "header"
    assert prompt_state("<|start|>assistant<|channel|>final<|message|>") == "normal"
    assert prompt_state("<|start|>assistant<|channel|>analysis<|message|>") == "reasoning"


def test_both_ends_of_a_reply_are_ends_of_sequence() -> None:
    tokenizer = tokenizer_of("gpt-oss")
    Markers(tokenizer)
    ends = tokenizer.convert_tokens_to_ids(["<|return|>", "<|call|>"])
    assert set(ends) <= tokenizer.eos_token_ids


_harmony_text = st.lists(
    st.sampled_from(
        [
            *HARMONY_TOKENS,
            "<|channel|>analysis<|message|>",
            FINAL,
            " to=functions.weather",
            "assistant",
            "commentary",
            '{"city": "Rome"}',
            "a <",
            "🙂",
            "<|",
            "\n",
        ]
    ),
    max_size=12,
).map("".join)


@given(_harmony_text, cuts, st.booleans())
def test_channels_do_not_depend_on_the_cut_and_no_mark_leaks(text: str, at: list[int], offered: bool) -> None:
    tools = TOOLS if offered else None
    whole = harmony(text, tools=tools)
    assert harmony(cut(text, at), tools=tools) == whole
    assert harmony(list(text), tools=tools) == whole
    shown = whole.content + whole.reasoning
    assert not any(mark in shown for mark in ("<|channel|>", "<|end|>", "<|start|>", "<|call|>"))


def test_the_splitter_holds_back_no_more_than_a_mark() -> None:
    splitter = HarmonySplitter("normal")
    assert list(splitter.split("a <|x")) == [("normal", "a <|x")]
    assert list(splitter.split(" <|en")) == [("normal", " ")]
    assert list(splitter.split("x")) == [("normal", "<|enx")]
