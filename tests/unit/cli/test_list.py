"""`mlxk list` on a home with the built-in model and a broken local one."""

from __future__ import annotations

import pytest

FIELDS = [
    "name",
    "hash",
    "size_bytes",
    "last_modified",
    "framework",
    "model_type",
    "capabilities",
    "context_length",
    "health",
    "runtime_compatible",
    "reason",
    "quantization",
]


@pytest.fixture
def broken_model(home):
    folder = home / "models" / "Broken-Model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{")
    (folder / "model.safetensors").write_bytes(b"\x00" * 16)


def test_the_built_in_model_is_always_there(mlxk_here):
    head, *rows = mlxk_here("list").out.splitlines()
    assert head.split() == ["NAME", "ID", "SIZE", "MODIFIED", "TYPE", "CONTEXT", "HEALTH"]
    [row] = rows
    assert row.startswith("tiny ")
    assert row.endswith("healthy")


def test_json_has_the_promised_shape(mlxk_here):
    data = mlxk_here("list", "--json").data
    assert data["count"] == 1
    [model] = data["models"]
    assert list(model) == FIELDS
    assert (model["name"], model["health"], model["framework"]) == ("tiny", "healthy", "MLX")
    assert model["runtime_compatible"] is True
    assert model["last_modified"].endswith("Z")


def test_a_broken_model_is_listed_with_the_reason(mlxk_here, broken_model):
    models = {model["name"]: model for model in mlxk_here("list", "--json").data["models"]}
    assert models["Broken-Model"]["health"] == "unhealthy"
    assert models["Broken-Model"]["reason"]
    assert models["Broken-Model"]["runtime_compatible"] is False
    assert "unhealthy: " in mlxk_here("list").out


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("TIN", ["tiny"]),
        ("b*model", ["Broken-Model"]),
        ("ro", ["Broken-Model"]),
        ("nothing", []),
        ("t?ny", ["tiny"]),
    ],
)
def test_a_pattern_narrows_the_list(pattern, names, mlxk_here, broken_model):
    assert [model["name"] for model in mlxk_here("list", pattern, "--json").data["models"]] == names


def test_an_empty_list_is_only_the_header(mlxk_here):
    assert mlxk_here("list", "nothing").out.splitlines() == [
        "NAME  ID  SIZE  MODIFIED  TYPE  CONTEXT  HEALTH"
    ]
