"""A call that is none comes back as the text that the model wrote, and arguments as they were written."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxk.workers import written_json
from mlxk.workers.pipeline import TextPipeline
from mlxk.workers.tool_formats import ToolFormat
from tests.unit.workers.families import TOOLS, Said, Texts, families, family_markers, sample

FAMILIES = families()
END = "<|im_end|>"
SHOWN_WITH_ITS_MARKS = [family for family in FAMILIES if family != "harmony"]


@pytest.mark.parametrize("family", SHOWN_WITH_ITS_MARKS)
@pytest.mark.parametrize("end_text", [None, END], ids=["cut", "ended by the model"])
def test_where_no_call_is_made_all_and_only_what_was_written_is_shown(
    family: str, end_text: str | None
) -> None:
    """Also where the reply ends inside of a call, or of its end marker: at every character."""
    start = family_markers(family).tool_format
    assert start is not None
    for text in sample(family)["malformed"]:
        for end in range(len(start.start), len(text) + 1):
            said = Said(family, text[:end], end_text=end_text)
            if not said.calls:
                assert said.content == text[:end]


@pytest.mark.parametrize("family", SHOWN_WITH_ITS_MARKS)
def test_the_half_of_an_end_marker_does_not_undo_a_whole_call(family: str) -> None:
    """Where the format can tell that it is whole; else it is text, all of it."""
    form = family_markers(family).tool_format
    assert form is not None
    text = sample(family)["cases"][0]["text"]
    for length in range(1, len(form.end)):
        said = Said(family, text.removesuffix(form.end) + form.end[:length])
        if form.ends_itself:
            assert said.named == sample(family)["cases"][0]["calls"]
            assert said.content == ""
        else:
            assert said.content == text.removesuffix(form.end) + form.end[:length]


def test_without_a_tool_format_the_text_of_a_call_is_text() -> None:
    """mlx_lm's headers may lead into a call of a model that has no parser."""
    text = '<tool_call>{"name": "clock"}</tool_call> or not'
    pipeline = TextPipeline(
        Texts([text]),
        stops=[],
        hidden_stops=[],
        splitter=family_markers("json_tools").splitter("normal", with_tools=True),
        tool_format=None,
        tools=TOOLS,
    )
    piece = pipeline.push(0)
    piece.extend(pipeline.finish())
    assert piece.content == '{"name": "clock"} or not'
    assert piece.tool_calls == []


# ----------------------------------------------------------------------------- numbers

LONG = "9" * 5000
NUMBERS = ["1e999", "-1e999", "12345678901234567890", LONG, "-0.1000000000000000055511", "1e-999", "3", "-7"]
WHOLE = [number for number in NUMBERS if number not in ("3", "-7")]
SPELLINGS = ["1.50", "1e5", "5.0", "-0", "1E+2"]
CONVERTS = ("minicpm5", "minimax_m2", "qwen3_coder")
"""These parsers give a number the type of the tool's schema."""


def written(family: str, pairs: dict[str, str]) -> str:
    """A call of `weather` with these arguments, written as JSON."""
    members = ", ".join(f'"{key}": {value}' for key, value in pairs.items())
    arg = "longcat_arg" if family == "longcat" else "arg"
    each = {
        "keys": f"<{arg}_key>{{k}}</{arg}_key>\n<{arg}_value>{{v}}</{arg}_value>\n",
        "kimi_k3": '<|open|>argument key="{k}" type="number"<|sep|>{v}<|close|>argument<|sep|>',
        "qwen3_coder": "<parameter={k}>\n{v}\n</parameter>\n",
        "minimax_m2": '<parameter name="{k}">{v}</parameter>\n',
        "muse_spark": '<atem:parameter name="{k}">{v}</atem:parameter>\n',
        "minicpm5": '<param name="{k}">{v}</param>',
    }
    own = each.get(family, each["keys"])
    listed = "".join(own.format(k=key, v=value) for key, value in pairs.items())
    return {
        "json_tools": f'<tool_call>\n{{"name": "weather", "arguments": {{{members}}}}}\n</tool_call>',
        "glm47": f"<tool_call>weather\n{listed}</tool_call>",
        "laguna": f"<tool_call>weather\n{listed}</tool_call>",
        "longcat": f"<longcat_tool_call>weather\n{listed}</longcat_tool_call>",
        "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
        f"<|tool_call_argument_begin|>{{{members}}}<|tool_call_end|><|tool_calls_section_end|>",
        "kimi_k3": '<|open|>tools<|sep|><|open|>call tool="weather" index="1"<|sep|>'
        f"{listed}<|close|>call<|sep|><|close|>tools<|sep|>",
        "qwen3_coder": f"<tool_call>\n<function=weather>\n{listed}</function>\n</tool_call>",
        "minimax_m2": f'<minimax:tool_call>\n<invoke name="weather">\n{listed}</invoke>\n'
        "</minimax:tool_call>",
        "muse_spark": f'<atem:function_calls>\n<atem:invoke name="weather">\n{listed}</atem:invoke>\n'
        "</atem:function_calls>",
        "minicpm5": f'<function name="weather">{listed}</function>',
        "mistral": f"[TOOL_CALLS]weather[ARGS]{{{members}}}",
        "harmony": "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
        f"{{{members}}}<|call|>",
        "pythonic": f"<|tool_call_start|>[weather({', '.join(f'{k}={v}' for k, v in pairs.items())})]"
        "<|tool_call_end|>",
        "function_gemma": "<start_function_call>call:weather{"
        + ",".join(f"{k}:{v}" for k, v in pairs.items())
        + "}<end_function_call>",
        "gemma4": "<|tool_call>call:weather{"
        + ",".join(f"{k}:{v}" for k, v in pairs.items())
        + "}<tool_call|>",
    }[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_that_python_cannot_hold_come_back_as_they_were_written(family: str) -> None:
    for number in NUMBERS:
        text = written(family, {"days": number})
        for pieces in (text, list(text)):
            (call,) = Said(family, pieces, end_text=END).calls
            assert call.arguments == f'{{"days": {number}}}'


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in CONVERTS])
def test_a_number_keeps_its_spelling(family: str) -> None:
    for number in SPELLINGS:
        (call,) = Said(family, written(family, {"days": number}), end_text=END).calls
        assert call.arguments == f'{{"days": {number}}}'


@pytest.mark.parametrize("family", CONVERTS)
def test_where_a_schema_decides_a_number_has_the_type_that_it_wants(family: str) -> None:
    (call,) = Said(family, written(family, {"factor": "1.50"}), end_text=END).calls
    assert json.loads(call.arguments)["factor"] in (1.5, "1.50")
    (call,) = Said(family, written(family, {"days": "5"}), end_text=END).calls
    assert call.arguments == '{"days": 5}'


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_in_texts_stay_there(family: str) -> None:
    city = f"{LONG} 1e999, -12345678901234567890; 731862954000000"
    quote = {"function_gemma": "<escape>", "gemma4": '<|"|>'}.get(family, '"')
    raw = family in ("glm47", "laguna", "longcat", "qwen3_coder", "minimax_m2", "muse_spark", "minicpm5")
    value = city if raw else f"{quote}{city}{quote}"
    text = written(family, {"city": value, "days": "1e999"})
    text = text.replace(f'key="city" type="number"<|sep|>"{city}"', f'key="city" type="string"<|sep|>{city}')
    (call,) = Said(family, text, end_text=END).calls
    assert json.loads(call.arguments, parse_float=str) == {"city": city, "days": "1e999"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1", "0x10", "1_000"])
def test_what_is_no_json_number_makes_no_json_call(number: str) -> None:
    for family in ("json_tools", "mistral", "harmony"):
        assert Said(family, written(family, {"days": number}), end_text=END).calls == []


@pytest.mark.parametrize(
    "arguments",
    [
        '{"city":"Berlin"}',
        '{ "city" : "Berlin" ,\n  "days" : 1.0 }',
        '{"city": "Z\\u00fcrich \\ud83d", "note": "\\/"}',
        '{"city": "a", "city": "b"}',
        "{}",
    ],
)
def test_json_arguments_are_the_text_that_the_model_wrote(arguments: str) -> None:
    for family, text in {
        "json_tools": f'<tool_call>{{"arguments": {arguments} , "name": "weather"}}</tool_call>',
        "mistral": f'[TOOL_CALLS][{{"name": "weather", "arguments": {arguments}}}]',
        "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
        f"<|tool_call_argument_begin|>{arguments}<|tool_call_end|><|tool_calls_section_end|>",
        "harmony": f"<|channel|>commentary to=functions.weather<|message|>{arguments}<|call|>",
    }.items():
        (call,) = Said(family, text, end_text=END).calls
        assert (call.name, call.arguments) == ("weather", arguments)
    as_text = f'<tool_call>{{"name": "weather", "arguments": {json.dumps(arguments)}}}</tool_call>'
    (call,) = Said("json_tools", as_text, end_text=END).calls
    assert call.arguments == arguments


# ----------------------------------------------------------------------- written_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values), st.sampled_from([None, 0, 2]), st.booleans())
def test_members_are_the_pieces_of_an_object(value: dict[str, Any], indent: int | None, ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    found = written_json.members(text)
    assert {key: json.loads(part) for key, part in found.items()} == value
    assert all(part in text for part in found.values())
    assert written_json.readable(text) == value
    assert [json.loads(one) for one in written_json.values(f" {text}\n[{text}, 1]{text}")] == (
        [value, value, 1, value]
    )


@given(st.text(alphabet='{}[]",:0.1eE-+ \n\\uaN', max_size=40))
def test_any_text_is_json_or_an_error(text: str) -> None:
    for read in (written_json.values, written_json.members, written_json.read):
        try:
            read(text)
        except (ValueError, IndexError):
            continue


@given(st.text(alphabet="0123456789.eE+-, xé", max_size=60), st.booleans())
def test_hidden_numbers_come_back(text: str, by_value: bool) -> None:
    numbers = written_json.Numbers(text, by_value=by_value)
    assert numbers.show(numbers.text) == text
    assert numbers.show("unchanged 5") == "unchanged 5"


def test_calls_that_are_only_opened_take_no_minutes() -> None:
    """A model that says the same again and again; mlx_lm's pattern took 40 s, while all others wait."""
    form = family_markers("gemma4").tool_format
    assert form is not None
    began = time.process_time()
    assert form.calls("call:f{" * 6_000, TOOLS, closed=True) == []
    assert time.process_time() - began < 10


def test_a_format_without_a_parser_s_help_raises_nothing() -> None:
    def fails(text: str, tools: Any) -> Any:
        raise RecursionError

    assert ToolFormat("<", ">", fails).calls("x", TOOLS, closed=True) == []
