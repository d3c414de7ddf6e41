"""Every envelope that `mlxk --json` prints in any test is checked here against docs/cli-schema.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA = Path(__file__).parents[1] / "docs" / "cli-schema.json"


def check_output(arguments: Sequence[str], out: str) -> None:
    """`out`: what `mlxk ARGUMENTS` printed on stdout. Does nothing unless JSON was asked for."""
    words = list(arguments)
    before_dashes = words[: words.index("--")] if "--" in words else words
    if "--json" not in before_dashes:
        return
    for document in _documents(out):
        if isinstance(document, dict) and {"status", "command"} <= document.keys():
            check_envelope(document)


def check_envelope(envelope: dict[str, Any]) -> None:
    error = jsonschema.exceptions.best_match(_validator().iter_errors(envelope))
    if error is not None:
        shown = json.dumps(envelope, default=str)[:2000]
        raise AssertionError(f"not as in docs/cli-schema.json: {error.json_path}: {error.message}\n{shown}")


def _documents(out: str) -> list[Any]:
    """One, on several lines, or one a line; what was cut off is left out."""
    try:
        return [json.loads(out)]
    except ValueError:
        found = []
        for line in out.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


@cache
def _validator() -> Any:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
