"""docs/signals.md promises a test for every row: they are there."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_page_of_signals_names_exists() -> None:
    page = (ROOT / "docs" / "signals.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| (\d+) \| (T|[\w/]+/test_)(\w+)(.*)\|$", page, re.MULTILINE)
    used = set(re.findall("[⁰¹²³⁴⁵⁶⁷⁸⁹]+", page))
    assert {number for number, *_ in named} == {unicodedata.normalize("NFKC", digits) for digits in used}
    for _, room, file, rest in named:
        start = "tests/process/test_" if room == "T" else f"tests/{room.removeprefix('tests/')}"
        code = (ROOT / f"{start}{file}.py").read_text(encoding="utf-8")
        for name in re.findall(r"::(\S+?)[\s,]", rest):
            assert re.search(rf"def {name.replace('…', '.*')}", code), f"{file}::{name}"
