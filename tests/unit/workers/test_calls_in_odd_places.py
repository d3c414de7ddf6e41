"""Every tool format: calls beside text, in code blocks, with odd texts in them, and with stop strings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.workers.families import Said, families
from tests.unit.workers.test_calls_as_written import written

FAMILIES = families()
AMONG_TEXT = [one for one in FAMILIES if one not in ("harmony", "muse_spark", "kimi_k3")]
"""The others say in headers what is text."""
END = "<|im_end|>"
BERLIN: list[Any] = ["weather", {"city": "Berlin"}]
BARE = ("glm47", "laguna", "longcat", "qwen3_coder", "minimax_m2", "muse_spark", "minicpm5")
"""Write a text without quotes."""
TRIM = ("glm47", "laguna", "longcat", "minicpm5", "minimax_m2", "muse_spark")
NULLS = ("minicpm5", "minimax_m2", "qwen3_coder")
"""Read the word null as null, whatever the schema says: their models have no other way to write it."""

ODD = [
    "Zürich 🙂 日本",
    "a\\b",
    "C:\\new\\table",
    "1\n2",
    "quote \"x\" 'y'",
    "<b>&amp;</b>",
    "a\tb",
    "{}[]()=,:",
]
ODD += ["</tool", "a</p>", "`code`", "%s {0} $1", "", "null", "true", "12", "1.50", "  two  spaces  "]


def call(family: str, city: str) -> str:
    quote = {"function_gemma": "<escape>", "gemma4": '<|"|>'}.get(family)
    value = f"{quote}{city}{quote}" if quote else json.dumps(city, ensure_ascii=False)
    text = written(family, {"city": city if family in BARE else value})
    if family == "kimi_k3":
        text = text.replace(f'type="number"<|sep|>{value}', f'type="string"<|sep|>{city}')
    return text


@pytest.mark.parametrize("family", AMONG_TEXT)
def test_text_and_code_around_a_call(family: str) -> None:
    one = call(family, "Berlin")
    for before, after in [("Before. ", ""), ("```\n", ""), ("Before. ", " After."), ("```json\n", "\n```")]:
        said = Said(family, f"{before}{one}{after}", end_text=END)
        if family == "mistral" and after:  # its calls go to the end of the reply: this is no call, then
            assert (said.content, said.calls) == (f"{before}{one}{after}", [])
        else:
            assert said.named == [BERLIN]
            assert said.content == before + after.lstrip()


@pytest.mark.parametrize("family", AMONG_TEXT)
def test_two_calls_in_a_row(family: str) -> None:
    for between in ("", "\n", "\n\n"):
        said = Said(family, call(family, "Berlin") + between + call(family, "Berlin"), end_text=END)
        assert said.named == [BERLIN, BERLIN]
        assert len({one.id for one in said.calls}) == 2


@pytest.mark.parametrize("family", AMONG_TEXT)
def test_a_stop_string_in_the_arguments_ends_the_reply_and_leaves_no_half_call(family: str) -> None:
    text = "So: " + call(family, "Ber STOP lin")
    for pieces in (text, list(text)):
        said = Said(family, pieces, stops=["STOP"])
        assert (said.calls, said.matched) == ([], "STOP")
        assert said.content == text.partition("STOP")[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("city", ODD)
def test_odd_texts_are_what_they_were(family: str, city: str) -> None:
    (made,) = Said(family, call(family, city), end_text=END).calls
    wanted: Any = city.strip() if family in TRIM else city
    if city == "null" and family in NULLS:
        wanted = None
    assert json.loads(made.arguments) == {"city": wanted}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tool_that_was_not_offered_is_the_client_s_to_refuse(family: str) -> None:
    said = Said(family, call(family, "Berlin").replace("weather", "unheard"), end_text=END)
    assert said.named == [["unheard", {"city": "Berlin"}]]
