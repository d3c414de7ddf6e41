"""MLXK_* variables that mean nothing: most likely a setting whose name was not quite right."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from mlxk.config.fields import SERVER_FIELDS

PREFIX = "MLXK_"
OTHERS = frozenset(
    {
        "MLXK_HOME",
        "MLXK_CONFIG",
        "MLXK_API_KEY",
        "MLXK_API_KEYS",
        "MLXK_SESSIONS",
        "MLXK_FUZZ_EXAMPLES",
        "MLXK_HYPOTHESIS_EXAMPLES",
    }
)
"""Read elsewhere, the last three by tests."""
OTHER_PREFIXES = ("MLXK_FAKE_", "MLXK_TEST_")
"""Of the fake engine and of tests."""


class UnknownVariable(NamedTuple):
    name: str
    nearest: str | None

    def __str__(self) -> str:
        hint = f"did you mean {self.nearest}?" if self.nearest else "correct its name, or unset it"
        return f"the variable {self.name} sets nothing; {hint}"


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[UnknownVariable]:
    """In alphabetical order. An empty one is an unset one, as everywhere."""
    environ = os.environ if environ is None else environ
    known = {one.variable for one in SERVER_FIELDS} | OTHERS
    strange = sorted(
        name
        for name, value in environ.items()
        if name.startswith(PREFIX) and value and name not in known and not name.startswith(OTHER_PREFIXES)
    )
    return [UnknownVariable(name, _nearest(name, known)) for name in strange]


def _nearest(name: str, known: set[str]) -> str | None:
    import difflib  # rarely needed

    for unit in ("_S", "_BYTES"):  # as the settings are called inside, and in units of theirs
        if name.removesuffix(unit) in known:
            return name.removesuffix(unit)
    found = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
    return found[0] if found else None
