from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxk.store.names import exact_name, is_plausible, names_holding, nearest_names, split_revision

NAMES = ["tiny", "mlx-community/Qwen3-4B", "mlx-community/Qwen3-4B-bf16", "org/Llama", "Llama"]


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "~", "~/x", "../x", "a/../b", "a\0b", "a\nb", "\\\\server", "x" * 201, "a\x1b[2J"],
)
def test_paths_and_rubbish_are_no_names(name: str) -> None:
    assert not is_plausible(name)


@pytest.mark.parametrize(
    "name", ["tiny", "org/name-4bit", "Name with space", "模型", "x" * 200, "a@b", "v1.5"]
)
def test_names_are_names(name: str) -> None:
    assert is_plausible(name)


def test_an_exact_name_comes_before_the_default_organisation() -> None:
    assert exact_name("Llama", NAMES) == "Llama"
    assert exact_name("Qwen3-4B", NAMES) == "mlx-community/Qwen3-4B"
    assert exact_name("qwen3-4b", NAMES) is None
    assert exact_name("mlx-community/Qwen3-4B", [], NAMES) == "mlx-community/Qwen3-4B"


def test_a_part_of_a_name_is_found_in_any_case() -> None:
    assert names_holding("QWEN", NAMES) == ["mlx-community/Qwen3-4B", "mlx-community/Qwen3-4B-bf16"]
    assert names_holding("bf16", NAMES) == ["mlx-community/Qwen3-4B-bf16"]
    assert names_holding("nothing", NAMES) == []


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("org/a@1F2e", ("org/a", "1f2e")),
        ("a@b@c", ("a@b", "c")),
        ("a", None),
        ("a@", None),
        ("@a", None),
    ],
)
def test_a_revision_is_split_off(name: str, parts: tuple[str, str] | None) -> None:
    assert split_revision(name) == parts


def test_a_typo_finds_the_nearest_names_best_first() -> None:
    assert nearest_names("tinny", NAMES) == ("tiny",)
    assert nearest_names("qwen3-4bb", NAMES)[0] == "mlx-community/Qwen3-4B"
    assert nearest_names("mlx-comunity/Qwen3-4B-bf16", NAMES)[0] == "mlx-community/Qwen3-4B-bf16"
    assert nearest_names("zzz", NAMES) == ()


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=20), max_size=8))
def test_any_text_can_be_looked_for(name: str, names: list[str]) -> None:
    assert set(names_holding(name, names)) <= set(names)
    nearest = nearest_names(name, names)
    assert len(nearest) <= 3
    assert set(nearest) <= set(names)
    assert isinstance(is_plausible(name), bool)
    split_revision(name)
