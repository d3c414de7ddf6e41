"""docs/specifications.md names a test for every specification of seed 002: they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
METHODS = 28
"""Of the seed's nine classes; the issues that it names come before them."""


def rows() -> list[tuple[str, str, list[tuple[str, str]]]]:
    page = (ROOT / "docs" / "specifications.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")][1:]
    return [
        (name.strip(), method.strip(), re.findall(r"`([\w/]+\.py)::(\w+)`", tests))
        for name, method, tests, _ in cells
    ]


def test_every_specification_has_tests_and_they_exist() -> None:
    for name, method, tests in rows():
        assert tests, (name, method)
        for file, test in tests:
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            found = {
                node.name
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert test in found, f"{file}::{test}"


def test_none_is_missing() -> None:
    methods = [(name, method) for name, method, _ in rows() if name.startswith("Test")]
    assert len(methods) == len(set(methods)) == METHODS
    assert len({name for name, _ in methods}) == 9
