"""Replies whose form is forced are taken apart the same way however their text comes in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlxk.workers.answer_splitter import AnswerSplitter, ThinkMarkers
from mlxk.workers.grammars import CallMarkers, Form
from mlxk.workers.markers import Markers
from mlxk.workers.pipeline import Piece, TextPipeline
from tests.unit.workers.constrained import tokenizer
from tests.unit.workers.cuts import cut, cuts
from tests.unit.workers.families import TOOLS, Texts, family_markers

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "</tool_call>"}}\n</tool_call>'
BROKEN = '<tool_call>\n{"name": 5}\n</tool_call>'
PIECES = [CALL, BROKEN, "<think>", "</think>", "<tool_call>", "</tool_call>", '{"name": "clock"}']
PIECES += ['{"a": ["<think>"]}', "hm ", "text", "\n", " ", "<", "{", "}", '"', "</", "<t"]
replies = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)


def said(form: Form, pieces: list[str], *, initial: str = "normal", array: bool = False) -> tuple[Any, ...]:
    markers: Markers = family_markers("json_tools")
    splitter = AnswerSplitter(
        form,
        None if array else CallMarkers("<tool_call>", "</tool_call>"),
        ThinkMarkers("<think>" if initial == "normal" else None, "</think>"),
        initial=initial,
        free=lambda state: Markers(tokenizer()).splitter(state, with_tools=True),
    )
    pipeline = TextPipeline(
        Texts(pieces),
        stops=[],
        hidden_stops=[],
        splitter=splitter,
        tool_format=markers.tool_format,
        tools=TOOLS,
    )
    total = Piece()
    for token in range(len(pieces)):
        total.extend(pipeline.push(token))
    total.extend(pipeline.finish("<|im_end|>"))
    return total.content, total.reasoning, [(call.name, call.arguments) for call in total.tool_calls]


@pytest.mark.parametrize("initial", ["normal", "reasoning"])
@pytest.mark.parametrize("form", list(Form), ids=lambda form: form.name)
@settings(max_examples=50)
@example(text="</think>\n\ntext", at=[])
@given(text=replies, at=cuts)
def test_any_cut_of_a_reply_is_the_same_reply(form: Form, initial: str, text: str, at: list[int]) -> None:
    whole = said(form, [text], initial=initial)
    assert said(form, cut(text, at), initial=initial) == whole
    assert said(form, list(text), initial=initial) == whole
    if form is Form.CALLS:
        whole = said(form, [text], initial=initial, array=True)
        assert said(form, cut(text, at), initial=initial, array=True) == whole


def test_thoughts_that_speak_of_a_call_go_on_behind_it() -> None:
    text = f"<think>\nno {BROKEN} yet\n</think>\n\nYes. {CALL} Done."
    wanted = (
        "Yes. Done.",
        f"no {BROKEN} yet",
        [("weather", '{"city": "</tool_call>"}')],
    )
    for pieces in ([text], list(text)):
        assert said(Form.FREE, pieces) == wanted
