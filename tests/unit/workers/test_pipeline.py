"""What a client sees of a text, however the text was cut into tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlx_lm.utils import load_tokenizer

from mlxk.store.builtin import builtin_path
from mlxk.workers.marker_splitter import MarkedText, MarkerSplitter
from mlxk.workers.markers import Markers
from mlxk.workers.pipeline import Piece, TextPipeline
from mlxk.workers.protocol import Delta, Deltas, decode_from_worker, encode_from_worker
from mlxk.workers.tool_formats import ToolFormat, tool_format
from tests.unit.workers.cuts import cut, cuts

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Berlin"}}\n</tool_call>'
CALL_2 = '<tool_call>\n{"name": "weather", "arguments": {"city": "Παρίσι"}}\n</tool_call>'


@cache
def builtin_tokenizer() -> Any:
    return load_tokenizer(builtin_path())


@cache
def markers() -> Any:
    return MarkedText(builtin_tokenizer())


class Pieces:
    """A decoder whose token ids are places in a list of texts; the last one comes only with the flush."""

    def __init__(self, pieces: list[str], *, hold_last: bool = False) -> None:
        self._pieces = pieces
        self._hold_last = hold_last

    def push(self, token: int) -> str:
        if self._hold_last and token == len(self._pieces) - 1:
            return ""
        return self._pieces[token]

    def flush(self) -> str:
        return self._pieces[-1] if self._hold_last and self._pieces else ""


@dataclass(frozen=True)
class Reply:
    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    matched: str | None = None
    stopped: bool = False


def reply(
    text: str | list[str],
    *,
    stops: list[str] | None = None,
    hidden: list[str] | None = None,
    tools: list[dict[str, Any]] | None = TOOLS,
    state: str = "normal",
    is_chat: bool = True,
    parser: ToolFormat | None = None,
    hold_last: bool = False,
) -> Reply:
    pieces = [text] if isinstance(text, str) else text
    pipeline = TextPipeline(
        Pieces(pieces, hold_last=hold_last),
        stops=stops or [],
        hidden_stops=hidden or [],
        splitter=MarkerSplitter(markers(), state) if is_chat else None,
        tool_format=parser or tool_format(builtin_tokenizer()),
        tools=tools,
    )
    total = Piece()
    for token in range(len(pieces)):
        total.extend(pipeline.push(token))
        if pipeline.stopped:
            break
    total.extend(pipeline.finish())
    assert pipeline.made_tool_calls == bool(total.tool_calls)
    calls = tuple((call.name, call.arguments) for call in total.tool_calls)
    return Reply(total.content, total.reasoning, calls, pipeline.matched_stop, pipeline.stopped)


fragments = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            CALL,
            CALL_2,
            "{",
            "<",
            "</",
            "th",
            "STOP",
            "ST",
            " ",
            "\n",
            "a",
            "日本",
            "🙂",
            "é",
            "<think>\nhm\n</think>\n\n",
        ]
    ),
    max_size=10,
).map("".join)


@example("a<", [], [1], "normal", True, [])
@example(f"x\n{CALL}\n{CALL_2}", [], list(range(60)), "normal", True, [])
@example("<think>\n a \n\n b\n</think>\n\nc", [], list(range(40)), "normal", True, [])
@given(
    fragments,
    st.lists(st.sampled_from(["STOP", "a", "\n\n", "</tool_call>", "<th", "日"]), max_size=2),
    cuts,
    st.sampled_from(["normal", "reasoning"]),
    st.booleans(),
    st.lists(st.sampled_from(["a\n", "STOP", "日本"]), max_size=1),
)
def test_the_reply_does_not_depend_on_how_the_text_was_cut(
    text: str, stops: list[str], at: list[int], state: str, offered: bool, hidden: list[str]
) -> None:
    given: dict[str, Any] = {
        "stops": stops,
        "hidden": hidden,
        "state": state,
        "tools": TOOLS if offered else None,
    }
    whole = reply(text, **given)
    assert reply(cut(text, at), **given) == whole
    assert reply(list(text), **given) == whole
    assert reply(cut(text, at), **given, hold_last=True) == whole


@given(fragments)
def test_without_marks_or_tools_nothing_is_lost(text: str) -> None:
    """Not in a chat: the text itself."""
    assert reply(text, is_chat=False) == Reply(text)


@given(fragments.filter(lambda text: "<think>" not in text))
def test_without_tools_every_character_of_a_reply_is_content(text: str) -> None:
    assert reply(text, tools=None) == Reply(text)


def test_thoughts_are_told_apart_and_lose_only_the_marks_white_space() -> None:
    got = reply("<think>\nFirst,\n  second. \n</think>\n\n The answer. ")
    assert got == Reply("The answer. ", "First,\n  second.")


def test_thoughts_that_the_template_opened_need_no_mark() -> None:
    assert reply("so be it\n</think>\n\nYes", state="reasoning") == Reply("Yes", "so be it")


def test_thoughts_that_never_end_stay_thoughts() -> None:
    assert reply("<think>\nwell, well\n") == Reply("", "well, well")


def test_a_reply_keeps_its_leading_space() -> None:
    assert reply(["  ", "two spaces"]) == Reply("  two spaces")


def test_one_call_is_a_call_and_no_text() -> None:
    assert reply(CALL) == Reply(calls=(("weather", '{"city": "Berlin"}'),))


def test_two_calls_are_two_calls_in_order() -> None:
    got = reply(f"I look.\n{CALL}\n{CALL_2}\n")
    assert got.content == "I look.\n"
    assert [json.loads(arguments)["city"] for _, arguments in got.calls] == ["Berlin", "Παρίσι"]


def test_a_call_inside_of_thoughts_ends_them() -> None:
    got = reply(f"<think>\nI need it{CALL}")
    assert (got.reasoning, len(got.calls)) == ("I need it", 1)


def test_calls_have_ids_of_their_own() -> None:
    pipeline = TextPipeline(
        Pieces([CALL, CALL]),
        stops=[],
        hidden_stops=[],
        splitter=MarkerSplitter(markers(), "normal"),
        tool_format=tool_format(builtin_tokenizer()),
        tools=TOOLS,
    )
    calls = [*pipeline.push(0).tool_calls, *pipeline.push(1).tool_calls]
    assert len({call.id for call in calls}) == 2
    assert all(call.id.startswith("call_") for call in calls)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{not json}</tool_call>",
        "<tool_call></tool_call>",
        '<tool_call>{"name": 5}</tool_call>',
        '<tool_call>{"name": ""}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "no json"}</tool_call>',
        '<tool_call>["f"]</tool_call>',
        "<tool_call>null</tool_call>",
        f"<tool_call>{'[' * 100_000}</tool_call>",
    ],
)
def test_a_malformed_call_is_shown_as_it_was_written(text: str) -> None:
    assert reply(f"a {text}\n\n b") == Reply(f"a {text}\n\n b")


def test_a_call_without_its_end_is_a_call_if_it_is_whole() -> None:
    assert reply(CALL.removesuffix("</tool_call>")).calls == (("weather", '{"city": "Berlin"}'),)


def test_a_call_that_breaks_off_is_shown_as_it_was_written() -> None:
    broken = '<tool_call>\n{"name": "weather", "argum'
    assert reply(broken) == Reply(broken)
    assert reply([broken, "</tool_"]) == Reply(broken + "</tool_")


def test_arguments_may_be_json_text_or_missing() -> None:
    got = reply('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>')
    assert got.calls == (("f", '{"a": 1}'),)
    assert reply('<tool_call>{"name": "f"}</tool_call>').calls == (("f", "{}"),)


def test_no_tools_offered_means_that_a_call_is_text() -> None:
    assert reply(f"Look: {CALL}\n", tools=None) == Reply(f"Look: {CALL}\n")


def test_half_an_emoji_in_a_calls_arguments_can_still_be_sent() -> None:
    """JSON may hold half a surrogate pair; a frame that cannot be encoded would end the I/O thread."""
    got = reply(r'<tool_call>{"name": "f", "arguments": {"x": "\ud83d"}}</tool_call>')
    assert got.calls == (("f", r'{"x": "\ud83d"}'),)
    (name,) = [reply(r'<tool_call>{"name": "f\ud83d"}</tool_call>').content]
    assert name == r'<tool_call>{"name": "f\ud83d"}</tool_call>'
    frame = encode_from_worker([Deltas([Delta("a", name + got.calls[0][1])])])
    assert decode_from_worker(frame)


def test_an_open_angle_at_the_end_is_not_lost() -> None:
    assert reply(["a ", "<"]) == Reply("a <")
    assert reply(["<think>", "a ", "</thi"]) == Reply("", "a </thi")


def test_a_stop_string_counts_inside_of_thoughts() -> None:
    got = reply("<think>\none two three</think>four", stops=["two"])
    assert got == Reply("", "one", (), "two", True)


def test_a_stop_string_after_a_call_ends_the_reply_and_keeps_the_call() -> None:
    got = reply(f"{CALL}\nDONE more", stops=["DONE"])
    assert (len(got.calls), got.content, got.matched) == (1, "", "DONE")


def test_a_stop_string_inside_of_a_call_leaves_what_was_written() -> None:
    got = reply(CALL, stops=["Berlin"])
    assert got.content == '<tool_call>\n{"name": "weather", "arguments": {"city": "'
    assert (got.calls, got.matched) == ((), "Berlin")


def test_a_stop_string_over_a_mark_ends_before_the_mark() -> None:
    assert reply(["a<thi", "nk>b"], stops=["<think>"]) == Reply("a", "", (), "<think>", True)


def test_hidden_stops_end_the_reply_and_are_not_reported() -> None:
    assert reply("yes\n\nHuman: no", hidden=["\n\nHuman:"]) == Reply("yes", stopped=True)


def test_a_stop_that_is_hidden_and_asked_for_is_reported() -> None:
    assert reply("yes END", stops=["END"], hidden=["END"]).matched == "END"


def test_a_stop_that_the_last_bytes_complete_is_matched() -> None:
    """The last character comes with the decoder's flush."""
    assert reply(["a", "b"], stops=["ab"], hold_last=True) == Reply("", "", (), "ab", True)


def test_a_parser_may_return_several_calls() -> None:
    several = ToolFormat(
        "<tool_call>", "</tool_call>", lambda text, _: [{"name": name} for name in text.split()]
    )
    assert reply("<tool_call>a b</tool_call>", parser=several).calls == (("a", "{}"), ("b", "{}"))


def finished(text: str, end_text: str | None, **more: Any) -> tuple[Piece, TextPipeline]:
    pipeline = TextPipeline(
        Pieces([text]),
        stops=more.get("stops", []),
        hidden_stops=more.get("hidden", []),
        splitter=MarkerSplitter(markers(), "normal"),
        tool_format=tool_format(builtin_tokenizer()),
        tools=TOOLS,
    )
    piece = pipeline.push(0)
    piece.extend(pipeline.finish(end_text))
    return piece, pipeline


def test_the_end_tokens_text_as_a_stop_string_is_reported() -> None:
    """Seed 001's gateway turns it into the token's id, and reports the string."""
    _, pipeline = finished("Yes.", "<|im_end|>", stops=["<|im_end|>"])
    assert (pipeline.matched_stop, pipeline.stopped) == ("<|im_end|>", False)
    assert finished("Yes.", "<|im_end|>", stops=["Yes!"])[1].matched_stop is None
    assert finished("Yes.", None, stops=["<|im_end|>"])[1].matched_stop is None


def test_a_hidden_stop_does_not_cut_a_call_or_thoughts() -> None:
    """A file to write may hold a transcript, and thoughts speak of the user."""
    takes_any = ToolFormat(
        "<tool_call>", "</tool_call>", lambda text, _: {"name": "f", "arguments": {"x": text}}
    )
    got = reply("<tool_call>a\nUser: b</tool_call>", hidden=["\nUser:"], parser=takes_any)
    assert got == Reply(calls=(("f", '{"x": "a\\nUser: b"}'),))
    got = reply("<think>a\nUser: wants b</think>c\nUser: d", hidden=["\nUser:"])
    assert got == Reply("c", "a\nUser: wants b", stopped=True)


def test_what_comes_after_a_hidden_stop_is_nothing_at_all() -> None:
    got = reply(f"a\nUser: b{CALL}", hidden=["\nUser:"])
    assert got == Reply("a", stopped=True)


def test_a_stop_that_was_asked_for_goes_before_a_hidden_one_that_is_complete_with_it() -> None:
    assert reply("a\nUser:", stops=["User:"], hidden=["\nUser:"]) == Reply("a\n", "", (), "User:", True)
    assert reply("a\nUser: END", stops=["END"], hidden=["\nUser:"]) == Reply("a", stopped=True)


def test_a_stop_at_the_very_first_character_leaves_nothing() -> None:
    assert reply("END of it", stops=["END"]) == Reply("", "", (), "END", True)
    assert reply(f"{CALL}", stops=["<"]) == Reply("", "", (), "<", True)


def test_thoughts_about_calls_go_on_after_a_malformed_one() -> None:
    text = "<think>Use <tool_call>?</tool_call> or not? \n\n </think>No."
    assert reply(text) == Reply("No.", "Use <tool_call>?</tool_call> or not?")


def test_numbers_that_json_does_not_know_make_a_call_malformed() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>'
    assert reply(text) == Reply(text)


def test_without_tools_a_call_is_shown_while_it_is_written() -> None:
    pipeline = TextPipeline(
        Pieces(["<tool_call>", "{"]),
        stops=[],
        hidden_stops=[],
        splitter=Markers(builtin_tokenizer()).splitter("normal", with_tools=False),
    )
    assert pipeline.push(0).content == "<tool_call>"
    assert pipeline.push(1).content == "{"
