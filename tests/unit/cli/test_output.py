"""Tables and envelopes."""

from __future__ import annotations

import io
import json
import sys

from mlxk.cli.output import format_table, print_data, printable, width


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
