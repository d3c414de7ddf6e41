"""Every tool parser of mlx_lm, and gpt-oss' channels, on a recorded sample of that family's calls."""

from __future__ import annotations

import pkgutil
from typing import Any

import mlx_lm.tool_parsers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.workers.cuts import cut, cuts
from tests.unit.workers.families import (
    TOOLS,
    Said,
    families,
    family_tokenizer,
    sample,
)

FAMILIES = families()
THINKING = [family for family in FAMILIES if family not in ("harmony", "muse_spark", "kimi_k3")]
"""With tiny's <think> marks. The others have marks of their own (test_reasoning.py)."""
END = "<|im_end|>"
"""The model ends its reply by itself."""


def cases(family: str) -> list[dict[str, Any]]:
    return list(sample(family)["cases"])


def malformed(family: str) -> list[str]:
    return list(sample(family)["malformed"])


def check(said: Said, case: dict[str, Any]) -> None:
    assert said.named == case["calls"]
    assert said.content.strip() == case.get("content", "").strip()
    assert said.reasoning == case.get("reasoning", "")


def test_every_parser_of_mlx_lm_has_a_sample() -> None:
    parsers = {module.name for module in pkgutil.iter_modules(mlx_lm.tool_parsers.__path__)}
    assert parsers <= set(FAMILIES)
    assert set(FAMILIES) - parsers == {"harmony"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_calls_are_read_however_the_text_is_cut(family: str) -> None:
    tokenizer = family_tokenizer(family)
    for case in cases(family):
        text = case["text"]
        whole = Said(family, text, end_text=END)
        check(whole, case)
        assert Said(family, list(text), end_text=END) == whole
        for at in range(0, len(text), 1 + len(text) // 150):
            assert Said(family, [text[:at], text[at:]], end_text=END) == whole
        pieces = [tokenizer.decode([token]) for token in tokenizer.encode(text, add_special_tokens=False)]
        if "".join(pieces) == text:  # else a token is a part of a character
            assert Said(family, pieces, end_text=END) == whole
        assert len({call.id for call in whole.calls}) == len(whole.calls)
        assert all(call.id for call in whole.calls)
        for call, wanted in zip(whole.calls, case.get("ids", []), strict=False):
            assert wanted is None or call.id == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reply_that_was_cut_holds_whole_calls_only(family: str) -> None:
    """At every character: an argument less would be another call."""
    for case in cases(family):
        text = case["text"]
        for end in range(len(text)):
            said = Said(family, text[:end])
            assert said.named == case["calls"][: len(said.calls)], text[:end]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_malformed_call_is_text(family: str) -> None:
    for text in malformed(family):
        shown = text
        if family == "harmony":  # without its headers
            shown = "to=functions.weather " + text.partition("<|message|>")[2].removesuffix("<|call|>")
        for pieces in ([text], list(text)):
            said = Said(family, pieces, end_text=END)
            assert (said.content, said.calls) == (shown, [])


@pytest.mark.parametrize("family", THINKING)
def test_a_malformed_call_in_thoughts_stays_there(family: str) -> None:
    if family == "mistral":  # its calls end with the reply
        return
    for text in malformed(family):
        said = Said(family, f"<think>\nperhaps {text} or not\n</think>\n\nNo.", end_text=END)
        assert (said.content, said.reasoning, said.calls) == ("No.", f"perhaps {text} or not", [])


@pytest.mark.parametrize("family", FAMILIES)
def test_without_tools_on_offer_a_call_is_text(family: str) -> None:
    for case in cases(family):
        said = Said(family, case["text"], tools=None, end_text=END)
        assert said.calls == []
        if family in THINKING and "<think>" not in case["text"]:
            assert said.content == case["text"]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25)
@given(text=st.text(alphabet='<>/|{}[]"=:,_ \nabefgimnorstuwy1', max_size=60), at=cuts)
def test_no_text_between_the_markers_makes_an_error(family: str, text: str, at: list[int]) -> None:
    form = Said(family, "").pipeline._tool_format
    assert form is not None
    start = form.start or "<|channel|>commentary to=functions.weather<|message|>"
    whole = f"{start}{text}{form.end or '<|call|>'}tail"
    assert Said(family, cut(whole, at), end_text=END) == Said(family, whole, end_text=END)


def test_mistrals_ids_are_what_its_template_takes() -> None:
    (call,) = Said("mistral", '[TOOL_CALLS]weather[ARGS]{"city": "Berlin"}', end_text=END).calls
    assert len(call.id) == 9
    assert call.id.isalnum()


def test_tools_without_parameters_do_no_harm() -> None:
    bare: list[dict[str, Any]] = [
        {"type": "function", "function": {"name": "weather", "parameters": None}},
        {"type": "function", "function": {"name": "clock", "parameters": {"properties": {"x": True}}}},
    ]
    for family in FAMILIES:
        first = sample(family)["cases"][0]
        assert Said(family, first["text"], tools=bare, end_text=END).named == first["calls"]
    assert TOOLS[1]["function"] == {"name": "clock"}
