"""Parameters, packings and bits per weight, from the headers alone, against what MLX and mlx_lm make of the
same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm import utils

from mlxk.store.folder import read_folder
from mlxk.store.inspection import inspect_model
from mlxk.store.weight_faults import read_weights
from mlxk.store.weight_formats import Contents, contents
from tests.unit.store.damage import copy_tiny

MODES = [("affine", 4, 64), ("affine", 8, 32), ("affine", 3, 128), ("affine", 6, 64)]
MODES += [("mxfp4", 4, 32), ("nvfp4", 4, 16), ("mxfp8", 8, 32)]


def quantized(
    tmp_path: Path, mode: str, bits: int, group_size: int, own: dict[str, Any] | None = None
) -> Path:
    """The built-in model, quantized by mlx_lm's own function and saved by it."""
    source = copy_tiny(tmp_path / "source")
    model, config = utils.load_model(source)
    predicate = None
    if own:

        def predicate(path: str, module: nn.Module) -> bool | dict[str, Any]:
            return own if "mlp" in path else hasattr(module, "to_quantized")

    model, config = utils.quantize_model(
        model, config, group_size, bits, mode=mode, quant_predicate=predicate
    )
    target = tmp_path / "quantized"
    target.mkdir()
    utils.save_model(target, model)
    utils.save_config(config, target / "config.json")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (target / name).write_bytes((source / name).read_bytes())
    return target


def look(model: Path) -> Contents:
    config = json.loads((model / "config.json").read_text())
    weights = read_weights(read_folder(model), config)
    assert weights.faults == []
    return contents(weights.tensors, config)


@pytest.mark.parametrize(("mode", "bits", "group_size"), MODES, ids=str)
def test_quantized_weights_are_counted_unpacked(
    tmp_path: Path, mode: str, bits: int, group_size: int
) -> None:
    path = quantized(tmp_path, mode, bits, group_size)
    assert inspect_model(path).faults == ()
    found = look(path)
    model, _ = utils.load_model(path)
    main = found.main_packing()
    assert main is not None
    assert (main.mode, main.bits, main.group_size) == (mode, bits, group_size)
    whole, _ = utils.load_model(tmp_path / "source")
    assert found.n_parameters == sum(array.size for _, array in tree_flatten(whole.parameters()))
    assert found.bits_per_weight == pytest.approx(
        sum(array.nbytes for _, array in tree_flatten(model.parameters())) * 8 / found.n_parameters
    )
    assert found.bits_per_weight == pytest.approx(utils.compute_bits_per_weight(model), rel=0.01)


def test_layers_that_are_quantized_otherwise_are_told_apart(tmp_path: Path) -> None:
    path = quantized(tmp_path, "affine", 4, 64, own={"bits": 8, "group_size": 32, "mode": "affine"})
    found = look(path)
    shares = {
        (packing.mode, packing.bits, packing.group_size): share for packing, share in found.shares.items()
    }
    assert shares["affine", 8, 32].n_tensors == 4 * 3
    assert shares["affine", 8, 32].n_parameters == 4 * 3 * 128 * 384
    assert shares["affine", 4, 64].n_tensors == 4 * 4 + 1
    assert shares["", 0, 0].n_parameters > 0, "norms stay as they are"


@pytest.mark.parametrize(("dtype", "label"), [("float32", "f32"), ("float16", "f16"), ("bfloat16", "bf16")])
def test_plain_precisions(tmp_path: Path, dtype: str, label: str) -> None:
    model = copy_tiny(tmp_path / "m")
    mx.save_safetensors(str(model / "model.safetensors"), {"w": mx.ones((8, 8), dtype=getattr(mx, dtype))})
    found = look(model)
    main = found.main_packing()
    assert main is not None
    assert (main.label, found.n_parameters) == (label, 64)
    assert found.bits_per_weight == (32 if label == "f32" else 16)


FOREIGN: list[tuple[dict[str, Any], dict[str, mx.array], str, int]] = [
    (
        {"quant_method": "awq", "bits": 4, "group_size": 128},
        {
            "l.qweight": mx.zeros((256, 8), dtype=mx.int32),
            "l.qzeros": mx.zeros((2, 8), dtype=mx.int32),
            "l.scales": mx.zeros((2, 64), dtype=mx.float16),
        },
        "int4",
        256 * 64,
    ),
    (
        {"quant_method": "mxfp4"},
        {
            "l.gate_up_proj_blocks": mx.zeros((4, 64, 2, 16), dtype=mx.uint8),
            "l.gate_up_proj_scales": mx.zeros((4, 64, 2), dtype=mx.uint8),
        },
        "mxfp4",
        4 * 64 * 64,
    ),
    (
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        {
            "l.weight_packed": mx.zeros((64, 8), dtype=mx.int32),
            "l.weight_scale": mx.zeros((64, 2), dtype=mx.bfloat16),
            "l.weight_shape": mx.zeros((2,), dtype=mx.int64),
        },
        "int4",
        64 * 64,
    ),
]


@pytest.mark.parametrize(("table", "weights", "label", "count"), FOREIGN, ids=["awq", "mxfp4", "compressed"])
def test_foreign_packings_are_counted_too(
    tmp_path: Path, table: dict[str, Any], weights: dict[str, mx.array], label: str, count: int
) -> None:
    model = copy_tiny(tmp_path / "m")
    mx.save_safetensors(str(model / "model.safetensors"), weights)
    config = json.loads((model / "config.json").read_text()) | {"quantization_config": table}
    (model / "config.json").write_text(json.dumps(config))
    found = look(model)
    main = found.main_packing()
    assert main is not None
    assert (main.label, found.n_parameters) == (label, count)
