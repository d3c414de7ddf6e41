"""docs/cli-schema.json: made of the code, strict, and complete in its errors."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import jsonschema
import pytest

import mlxk
from mlxk.cli.errors import EXIT_CODES, CliError
from mlxk.cli.main import SUBVERBS, VERBS
from mlxk.workers.protocol import FaultCode
from tests.envelopes import SCHEMA, check_envelope, check_output
from tools import cli_schema

PACKAGE = Path(mlxk.__file__).parent
WITHOUT_DATA = {"events", "top"}


def success(command: str, data: object) -> dict[str, object]:
    return {"status": "success", "command": command, "data": data, "error": None}


def failure(type: str = "usage", command: str | None = "ps") -> dict[str, object]:
    return {"status": "error", "command": command, "data": None, "error": {"type": type, "message": "no"}}


def test_the_document_is_made_of_the_code():
    assert SCHEMA.read_text(encoding="utf-8") == cli_schema.text(), "old: python -m tools.cli_schema"
    jsonschema.Draft202012Validator.check_schema(cli_schema.document())


def test_every_verb_has_its_data():
    subs = {f"{verb} {sub}" for verb, names in SUBVERBS.items() for sub in names}
    assert set(cli_schema.VERBS) == ({*VERBS, "push"} | subs) - WITHOUT_DATA


def test_what_is_right_passes():
    check_envelope(success("version", {"version": "1"}))
    check_envelope(failure())
    check_envelope(failure("model_not_found", "run"))
    check_envelope(failure("usage", None))


@pytest.mark.parametrize(
    "wrong",
    [
        success("version", {"version": "1", "more": 1}),
        success("version", {}),
        success("version", None),
        success("nonsense", {}),
        success("stop", {"models": [{"name": "a", "stopped": True, "freed_bytes": "1 MB"}], "server": False}),
        success("config path", {"path": "/x"}),
        {**success("version", {"version": "1"}), "error": {"type": "usage", "message": "x"}},
        {**failure(), "error": None},
        {**failure(), "data": {}},
        failure("never_heard_of"),
        {**failure(), "more": 1},
        {"status": "error", "command": "ps", "data": None},
    ],
    ids=range(12),
)
def test_what_is_wrong_does_not(wrong):
    with pytest.raises(AssertionError, match="not as in"):
        check_envelope(wrong)


def test_outputs_are_checked_where_json_was_asked_for():
    check_output(["ps"], '{"status": 1, "command": 2}')
    check_output(["load", "--", "--json"], '{"status": 1, "command": 2}')
    check_output(["events", "--json"], '{"event": "x"}\n{"event": ')
    with pytest.raises(AssertionError):
        check_output(["--json", "ps"], '{"status": 1, "command": 2}')


def raised_types() -> set[str]:
    """Of all errors that the command line and the store write down by name."""
    found: set[str] = set()
    for path in [*(PACKAGE / "cli").rglob("*.py"), *(PACKAGE / "store").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and _name(node.func) in ("CliError", "OperationError")
                and node.args
            ):
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found.add(first.value)
                elif isinstance(first, ast.IfExp):
                    found |= {
                        part.value for part in (first.body, first.orelse) if isinstance(part, ast.Constant)
                    }
    return found


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def test_every_error_that_is_raised_is_in_the_document_with_its_exit_code():
    documented = cli_schema.exit_codes()
    assert raised_types() - documented.keys() == set()
    assert EXIT_CODES.keys() - documented.keys() == set()
    for type, code in documented.items():
        assert CliError(type, "").exit_code == code


def test_the_exit_codes_are_the_contracts():
    codes = cli_schema.exit_codes()
    by_code = {code: {type for type, one in codes.items() if one == code} for code in set(codes.values())}
    assert by_code[2] == {"usage"}
    assert by_code[3] == {"server_not_running"}
    unknown = {"model_not_found", "ambiguous_model", "model_renamed", "revision_not_found"}
    assert by_code[4] == unknown
    assert by_code[5] == {"timed_out", "deadline_exceeded"}
    assert by_code[6] == {"insufficient_memory"}
    assert by_code[130] == {"interrupted"}
    assert set(by_code) == {1, 2, 3, 4, 5, 6, 130}
    assert set(FaultCode) <= codes.keys()


def test_names_say_their_unit():
    """Sizes are `…bytes`, durations `…_s`, and nothing is named after another unit."""
    text = SCHEMA.read_text(encoding="utf-8")
    names = set(re.findall(r'"([a-z_]+)": \{', text))
    assert not {name for name in names if re.search(r"_(mb|gb|kb|ms|minutes|seconds)$", name)}
