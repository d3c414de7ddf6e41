"""`mlxk config init`'s file, and values written as TOML: both are read back as what they were."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxk.config.fields import MODEL_FIELDS, SERVER_FIELDS
from mlxk.config.parsers import parse_table
from mlxk.config.settings import ModelSettings, Settings, load_settings
from mlxk.config.template import commented_file
from mlxk.config.units import exact_duration, exact_size, parse_duration_s, parse_size
from mlxk.config.written import as_toml

MODEL = "mlx-community/Qwen3-0.6B-4bit"


def write(home: Path, text: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(text, encoding="utf-8")


def test_the_commented_file_changes_nothing(mlxk_home: Path) -> None:
    write(mlxk_home, commented_file())
    assert dataclasses.replace(load_settings(), sources={}) == Settings()


def test_every_key_stands_in_it_with_its_default_and_a_sentence(mlxk_home: Path) -> None:
    """All comment signs before keys removed: the defaults again, but for what has none."""
    text = re.sub(r"^#(?=[a-z\[])", "", commented_file(), flags=re.MULTILINE)
    text = text.replace('path = "/data/models/my-finetune"\n', "")  # excludes `id`
    write(mlxk_home, text)
    settings = load_settings()
    without = {one.name for one in SERVER_FIELDS if one.example}
    assert without == {"api_key_file"}
    for one in SERVER_FIELDS:
        assert settings.sources[one.name] == "config.toml"
        if one.name not in without:
            assert getattr(settings, one.name) == getattr(Settings(), one.name), one.name
    model, default = settings.models[MODEL], ModelSettings(MODEL)
    assert set(tomllib.loads(text)["models"][MODEL]) == {one.key for one in MODEL_FIELDS} - {"path"}
    for one in MODEL_FIELDS:
        has_default = getattr(default, one.name) is not None and not one.example
        if has_default:
            assert getattr(model, one.name) == getattr(default, one.name), one.name
    for one in (*SERVER_FIELDS, *MODEL_FIELDS):
        assert one.about.endswith(".")


def test_no_line_is_too_long_for_a_screen() -> None:
    assert max(map(len, commented_file().splitlines())) <= 110


@given(st.integers(0, 2**60))
def test_a_written_size_is_read_back(n_bytes: int) -> None:
    assert parse_size(exact_size(n_bytes)) == n_bytes


@given(st.one_of(st.integers(0, 10**9).map(float), st.floats(0.001, 10**6)))
def test_a_written_duration_is_read_back(seconds: float) -> None:
    assert parse_duration_s(exact_duration(seconds)) == pytest.approx(seconds, rel=0, abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(600, "10m"), (5400, "1h30m"), (0.25, "0.25s"), (-1, "-1"), (0, "0"), (86400 * 2, "2d"), (90, "1m30s")],
)
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    assert exact_duration(seconds) == text


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1),
        st.recursive(
            st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(codec="utf-8")),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
            max_leaves=8,
        ),
    )
)
def test_any_table_is_read_back(table: dict[str, object]) -> None:
    options = next(one for one in MODEL_FIELDS if one.key == "options")
    assert options.parse is parse_table
    assert tomllib.loads(f"options = {as_toml(options, table)}")["options"] == table
