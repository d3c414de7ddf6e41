"""What a conversion can be asked for."""

from __future__ import annotations

import pytest

from mlxk.cli import convert
from mlxk.store.hub_errors import OperationError
from mlxk.store.quantization_options import Conversion, choose_conversion, estimated_bytes
from mlxk.store.weight_formats import AFFINE_BITS, AFFINE_GROUPS

NOTHING = {"mode": None, "bits": None, "group_size": None, "dtype": None, "dequantize": False}


@pytest.mark.parametrize(
    ("asked", "label"),
    [
        ({}, "4bit"),
        ({"bits": 8}, "8bit"),
        ({"bits": 3, "group_size": 32}, "3bit-g32"),
        ({"mode": "nvfp4"}, "nvfp4"),
        ({"mode": "mxfp4", "bits": 4, "group_size": 32}, "mxfp4"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "bfloat16", "bits": 6}, "6bit"),
        ({"dequantize": True}, "dequantized"),
    ],
)
def test_the_label_says_what_was_done(asked: dict[str, object], label: str) -> None:
    assert choose_conversion(**{**NOTHING, **asked}).label == label  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "asked", [{"bits": 0}, {"bits": 7}, {"group_size": 16}, {"mode": "nvfp4", "bits": 8}]
)
def test_what_mlx_cannot_do_is_a_usage_error(asked: dict[str, object]) -> None:
    with pytest.raises(OperationError) as caught:
        choose_conversion(**{**NOTHING, **asked})  # type: ignore[arg-type]
    assert caught.value.type == "usage"


@pytest.mark.parametrize(("option", "there_are"), [("bits", AFFINE_BITS), ("group_size", AFFINE_GROUPS)])
def test_the_help_and_the_error_name_the_same_numbers(option: str, there_are: tuple[int, ...]) -> None:
    numbers = ", ".join(map(str, there_are[:-1])) + f" or {there_are[-1]}"
    with pytest.raises(OperationError) as caught:
        choose_conversion(**{**NOTHING, option: 7})  # type: ignore[arg-type]
    assert f" {numbers}" in str(caught.value)
    (help,) = (one.help for one in convert.command.params if one.name == option)  # type: ignore[attr-defined]
    assert f": {numbers}." in help


def test_four_bits_take_a_good_quarter_of_sixteen() -> None:
    four = Conversion("affine", 4, 64)
    assert 0.28 < estimated_bytes(four, 1_000_000, 16.0) / 1_000_000 < 0.32
    assert estimated_bytes(Conversion(dtype="float32"), 1000, 16.0) == 2000
