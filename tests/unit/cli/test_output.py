"""Tables and envelopes."""

from __future__ import annotations

import io
import json
import sys

import pytest

from mlxk.cli.output import can_show, format_table, print_data, printable, shorten, styled, width, wrap


def test_an_envelope_holds_no_character_that_steers_a_terminal(capsys):
    nasty = "a\x1b[31m\x7f\x9b31m\x85 é"
    print_data("run", {"response": nasty})
    out = capsys.readouterr().out
    assert out.rstrip("\n").isprintable()
    assert json.loads(out)["data"]["response"] == nasty


def test_columns_are_aligned_and_rows_do_not_end_in_blanks():
    table = format_table(("NAME", "SIZE"), [["tiny", "1.8 MB"], ["a-longer-name", "12 GB"]], right=("SIZE",))
    assert table.splitlines() == ["NAME             SIZE", "tiny           1.8 MB", "a-longer-name   12 GB"]
    assert format_table(("NAME", "STATE"), [["tiny", ""]]) == "NAME  STATE\ntiny"


def test_a_table_without_rows_is_its_header():
    assert format_table(("NAME", "SIZE"), []) == "NAME  SIZE"


def test_wide_characters_take_two_cells():
    assert [width(text) for text in ("tiny", "模型", "e\u0301")] == [4, 4, 1]
    lines = format_table(("NAME", "ID"), [["模型", "x"], ["tiny", "y"]]).splitlines()
    assert {width(line) for line in lines} == {7, 8}


def test_control_characters_in_a_cell_stay_harmless():
    assert printable("a\x1b[31mb\nc\x00\u202e") == "a?[31mb c??"
    assert len(format_table(("A",), [["one\ntwo"]]).splitlines()) == 2


def test_an_envelope_keeps_other_scripts_readable(capsys):
    print_data("run", {"response": "héllo 你好 🙂"})
    assert "héllo 你好 🙂" in capsys.readouterr().out


def test_an_envelope_is_whole_on_an_ascii_terminal_and_with_half_a_surrogate(monkeypatch):
    for encoding, text in (("ascii", "你好 🙂"), ("utf-8", "half \ud83d")):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        print_data("run", {"response": text})
        assert json.loads(raw.getvalue())["data"]["response"] == text


def test_a_name_is_shortened_in_the_middle():
    assert shorten("mlx-community/Qwen3-4bit", 12) == "mlx-co…-4bit"[:6] + "…" + "-4bit"
    assert shorten("short", 12) == "short"
    for cells in range(1, 30):
        assert width(shorten("a-long-name-模型模型-with-wide-characters", cells)) <= cells


def test_an_ascii_terminal_gets_three_dots(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert shorten("mlx-community/Qwen3-4bit", 12).isascii()


def test_columns_give_way_in_the_order_that_was_asked_for():
    head, row = ("NAME", "ID", "TYPE"), ["n" * 40, "i" * 10, "t" * 10]
    options = {"drop": ("TYPE", "ID"), "flexible": ("NAME",)}

    def heads(fit):
        table = format_table(head, [row], fit=fit, **options).splitlines()
        assert max(map(width, table)) <= fit
        return table[0].split()

    assert heads(64) == ["NAME", "ID", "TYPE"]
    assert heads(60) == ["NAME", "ID", "TYPE"], "the name is shortened"
    assert heads(46) == ["NAME", "ID"]
    assert heads(30) == ["NAME"]
    assert heads(10) == ["NAME"]


def test_marks_and_joiners_take_no_cell():
    assert [width(text) for text in ("e\u0301\u20dd", "\u0928\u093f\u0902", "a\u200db")] == [1, 2, 2]


def test_what_is_cut_begins_with_no_mark_of_another_character():
    assert shorten("abcdefe\u0301\u0301gh", 5) == "ab…gh"
    assert shorten("abcdefge\u0301\u0301", 4).endswith("e\u0301\u0301")
    assert [shorten("abcdef", cells) for cells in (3, 2, 1, 0)] == ["a…f", "a…", "…", ""]


def test_what_a_terminal_cannot_show_has_a_known_width(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert printable("h\xe9 \u6a21\u578b") == "h\xe9 ??"


@pytest.mark.parametrize(
    ("env", "encoding", "expected"),
    [
        ({"LC_ALL": "C"}, "utf-8", False),
        ({"LC_CTYPE": "POSIX"}, "utf-8", False),
        ({"LC_ALL": "C.UTF-8", "LANG": "C"}, "utf-8", True),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, "utf-8", True),
        ({}, "utf-8", True),
        ({"LANG": "en_US.UTF-8"}, "ascii", False),
        ({"LANG": "de_DE.ISO-8859-1"}, "latin-1", False),
    ],
)
def test_ornaments_need_an_encoding_and_a_locale(env, encoding, expected, monkeypatch):
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert can_show("█…") is expected


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("env", "is_colored"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_colors_are_for_terminals_that_have_them(env, is_colored, monkeypatch):
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b" in styled("x", "red", _Screen())) is is_colored
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert styled("x", "red", io.StringIO()) == "x"


def test_prose_is_wrapped_in_a_terminal_only(monkeypatch):
    assert wrap("one two three", "  ") == ["  one two three"]
    monkeypatch.setattr("mlxk.cli.output.terminal_width", lambda: 30)
    lines = wrap("-> mlxk pull mlx-community/a-name-that-is-longer-than-the-line and more", "  ", hang=3)
    assert lines == [
        "  -> mlxk pull",
        "     mlx-community/a-name-that-is-longer-than-the-line",
        "     and more",
    ]
