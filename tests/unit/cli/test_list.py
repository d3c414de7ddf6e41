"""`mlxk list` on a home with the built-in model and a broken local one."""

from __future__ import annotations

import os

import pytest

from mlxk.cli.output import width
from tests.unit.cli.sick_cache import write_sick_models
from tests.unit.store.damage import copy_tiny

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
    result = mlxk_here("list", "nothing*")
    assert result.out.splitlines() == ["NAME  ID  SIZE  MODIFIED  TYPE  CONTEXT  HEALTH"]
    assert (result.code, result.err) == (0, "no model matches 'nothing*'\n")
    assert mlxk_here("list", "nothing*", "--json").err == ""


def test_a_folder_that_is_not_there_has_no_id_and_no_time(mlxk_here, home):
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text('[models.bad]\npath = "/nonexist"\n')
    bad = mlxk_here("list", "bad", "--json").data["models"][0]
    assert (bad["hash"], bad["last_modified"], bad["health"]) == (None, None, "unhealthy")
    assert bad["reason"] == (
        "the folder /nonexist does not exist; correct its path in the configuration, or put the model there"
    )
    row = mlxk_here("list", "bad").out.splitlines()[1]
    assert row.split()[:6] == ["bad", "-", "0", "B", "-", "-"]
    assert mlxk_here("show", "bad").code == 0


def test_without_config_json_there_is_no_id(mlxk_here, home):
    copy_tiny(home / "models" / "headless")
    (home / "models" / "headless" / "config.json").unlink()
    [model] = mlxk_here("list", "headless", "--json").data["models"]
    assert model["hash"] is None
    assert model["last_modified"].endswith("Z")


# ------------------------------------------------------------------------ terminals

LONG = "mlx-community/A-Model-With-A-Very-Long-Name-Indeed-Of-Seventy-Billion-Parameters-Instruct-4bit"


@pytest.fixture
def terminal(monkeypatch):
    """The output is a terminal of so many columns."""

    def wide(columns: int) -> None:
        monkeypatch.setattr("mlxk.cli.list.terminal_width", lambda: columns)

    return wide


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 100, 132, 200])
def test_no_line_is_wider_than_the_terminal(mlxk_here, home, terminal, columns):
    write_sick_models(home, "cut data", "GGUF")
    copy_tiny(home / "models" / LONG)
    terminal(columns)
    result = mlxk_here("list")
    lines = result.out.splitlines()
    assert len(lines) == 5
    assert max(map(width, lines)) <= max(columns, 30)
    assert all(("healthy" in line) or ("supported" in line) for line in lines[1:]), "the last to go"
    assert "2 of them cannot be used; `mlxk health` says why" in result.err


def test_a_narrow_terminal_shows_the_ends_of_names_and_fewer_columns(mlxk_here, home, terminal):
    copy_tiny(home / "models" / LONG)
    terminal(80)
    head, row, *_ = mlxk_here("list").out.splitlines()
    assert head.split() == ["NAME", "ID", "SIZE", "MODIFIED", "HEALTH"]
    assert row.startswith("mlx-community/A-")
    assert "…" in row
    assert "uct-4bit  " in row
    terminal(200)
    head, row, *_ = mlxk_here("list").out.splitlines()
    assert head.split() == ["NAME", "ID", "SIZE", "MODIFIED", "TYPE", "CONTEXT", "HEALTH"]
    assert LONG in row


def test_nothing_is_cut_on_a_pipe(mlxk_here, home):
    write_sick_models(home, "cut data")
    copy_tiny(home / "models" / LONG)
    out = mlxk_here("list").out
    assert LONG in out
    assert "unhealthy: model.safetensors is cut off: " in out


def test_the_order_can_be_chosen(mlxk_here, home):
    small, old = copy_tiny(home / "models" / "a-small"), copy_tiny(home / "models" / "b-old")
    (small / "model.safetensors").write_bytes(b"")
    for file in old.iterdir():
        os.utime(file, (1, 1))

    def names(*order: str) -> list[str]:
        return [one["name"] for one in mlxk_here("list", *order, "--json").data["models"]]

    assert names() == ["a-small", "b-old", "tiny"] == names("--sort", "name")
    assert names("--sort", "size")[-1] == "a-small"
    assert names("--sort", "modified")[-1] == "b-old"
    assert mlxk_here("list", "--sort", "colour").code == 2


def test_a_second_list_reads_no_model_again(mlxk_here, home, monkeypatch):
    from mlxk.store import inspection, inspection_cache

    write_sick_models(home, "cut data", "no template")
    monkeypatch.setattr(inspection_cache, "_SETTLED_NS", -(10**18))
    first = mlxk_here("list", "--json").data
    inspection._known.clear()  # as in another process
    monkeypatch.setattr(inspection, "_inspect", lambda *_, **__: pytest.fail("read again"))
    assert mlxk_here("list", "--json").data == first
