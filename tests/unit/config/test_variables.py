from __future__ import annotations

import pytest

from mlxk.config.fields import SERVER_FIELDS
from mlxk.config.variables import unknown_variables


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("MLXK_DRAIN_TIMEOUT_S", "MLXK_DRAIN_TIMEOUT"),
        ("MLXK_MAX_BODY_BYTES", "MLXK_MAX_BODY"),
        ("MLXK_MAX_MEMMORY", "MLXK_MAX_MEMORY"),
        ("MLXK_APIKEY", "MLXK_API_KEY"),
        ("MLXK_QQ", None),
        ("MLXK_", None),
    ],
)
def test_a_variable_that_sets_nothing_is_named_with_the_nearest_that_does(
    name: str, nearest: str | None
) -> None:
    (found,) = unknown_variables({name: "1", "PATH": "/bin"})
    assert (found.name, found.nearest) == (name, nearest)
    assert name in str(found)
    assert (nearest or "unset it") in str(found)


def test_settings_and_what_else_is_read_are_known() -> None:
    known = [f"MLXK_{one.key.upper()}" for one in SERVER_FIELDS]
    others = [
        "MLXK_HOME",
        "MLXK_CONFIG",
        "MLXK_API_KEY",
        "MLXK_API_KEYS",
        "MLXK_FAKE_START",
        "MLXK_TEST_AUDIT",
    ]
    assert unknown_variables(dict.fromkeys([*known, *others], "1")) == []


def test_values_are_not_told_and_empty_ones_are_unset() -> None:
    assert unknown_variables({"MLXK_SECRET": ""}) == []
    (found,) = unknown_variables({"MLXK_SECRET": "hush"})
    assert "hush" not in str(found)
