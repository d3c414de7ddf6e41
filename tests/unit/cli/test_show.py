"""`mlxk show`, seed 002's TestShowQuantization among it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from mlxk.cli.model_page import format_count
from mlxk.store.builtin import builtin_path
from tests.unit.cli.sick_cache import write_sick_models
from tests.unit.store.damage import change_json, copy_tiny
from tests.unit.store.sick_models import SICK

METADATA = [
    "architecture",
    "model_type",
    "parameters",
    "context_length",
    "quantization",
    "gguf",
    "chat_template",
    "tools",
    "reasoning",
    "license",
    "generation_defaults",
    "source",
    "path",
    "revision",
    "revisions",
    "configured",
    "memory",
    "files",
    "problems",
]


@pytest.fixture
def local(home):
    """Makes a copy of the built-in model with that name."""

    def make(name: str) -> Path:
        (home / "models").mkdir(parents=True, exist_ok=True)
        return copy_tiny(home / "models" / name)

    return make


def test_json_has_the_promised_shape(mlxk_here):
    data = mlxk_here("show", "tiny", "--json").data
    assert list(data) == ["model", "metadata"]
    assert data["model"] == mlxk_here("list", "tiny", "--json").data["models"][0]
    facts = data["metadata"]
    assert list(facts) == METADATA
    assert (facts["architecture"], facts["parameters"], facts["context_length"]) == (
        "Qwen3ForCausalLM",
        869760,
        8192,
    )
    assert (facts["chat_template"], facts["tools"], facts["reasoning"]) == (True, True, True)
    assert facts["quantization"]["label"] == "bf16"
    assert facts["quantization"]["bits_per_weight"] == 16
    assert facts["memory"]["server"] is None
    assert facts["memory"]["fits"] is True
    assert {one["name"] for one in facts["files"]} >= {"config.json", "model.safetensors"}


# ---------------------------------------------------------- seed 002: TestShowQuantization


def quantize(model: Path, mode: str, bits: int, group_size: int) -> None:
    weights = mx.quantize(mx.ones((64, 128)), group_size=group_size, bits=bits, mode=mode)
    names = ("a.weight", "a.scales", "a.biases")
    mx.save_safetensors(str(model / "model.safetensors"), dict(zip(names, weights, strict=False)))
    change_json(model / "config.json", quantization={"mode": mode, "bits": bits, "group_size": group_size})


@pytest.mark.parametrize(
    ("mode", "bits", "group_size", "since"),
    [("mxfp4", 4, 32, "0.29.0"), ("nvfp4", 4, 16, "0.29.4"), ("mxfp8", 8, 32, "0.29.4")],
)
def test_advanced_modes_say_which_mlx_they_need(mlxk_here, local, mode, bits, group_size, since):
    quantize(local("m"), mode, bits, group_size)
    out = mlxk_here("show", "m").out
    assert f"{mode}, {bits} bits, groups of {group_size}" in out
    assert f"{mode} requires MLX >= {since}; {mx.__version__} is installed" in out
    found = mlxk_here("show", "m", "--json").data["metadata"]["quantization"]
    assert (found["label"], found["mode"], found["method"]) == (mode, mode, "mlx")
    assert found["requires"] == {
        "package": "mlx",
        "version": since,
        "mode": mode,
        "installed": mx.__version__,
        "satisfied": True,
    }


def test_a_mode_that_the_installed_mlx_has_not_is_a_fault(mlxk_here, local, monkeypatch):
    from mlxk.store import inspection, support

    quantize(local("m"), "mxfp4", 4, 32)
    monkeypatch.setattr(support, "installed_mlx", lambda: "0.28.0")
    monkeypatch.setattr("mlxk.store.description.installed_mlx", lambda: "0.28.0")
    inspection._known.clear()
    result = mlxk_here("show", "m")
    inspection._known.clear()
    assert "mxfp4 requires MLX >= 0.29.0; 0.28.0 is installed: too old" in result.out
    assert "needs MLX 0.29.0 or newer, and MLX 0.28.0 is installed; pip install -U mlx" in result.out


def test_a_config_without_weights_says_its_mode_too(mlxk_here, local):
    model = local("m")
    (model / "model.safetensors").unlink()
    change_json(
        model / "config.json", quantization_config={"quant_method": "mxfp4"}, quantization={"mode": "mxfp4"}
    )
    out = mlxk_here("show", "m").out
    assert "mxfp4, 4 bits, groups of 32" in out
    assert "requires MLX >= 0.29.0" in out
    assert "it has no weights" in out


def test_gguf_variants_are_listed_with_their_sizes(mlxk_here, local):
    model = local("m")
    (model / "model.safetensors").unlink()
    for name, size in {
        "m-Q4_K_M.gguf": 3000,
        "m.IQ2_XXS.gguf": 2000,
        "m-Q8_0-00001-of-00002.gguf": 4000,
        "m-Q8_0-00002-of-00002.gguf": 4500,
        "m-bf16.gguf": 9000,
        "mmproj-m-F16.gguf": 100,
    }.items():
        (model / name).write_bytes(bytes(size))
    data = mlxk_here("show", "m", "--json").data
    found = {one["variant"]: one["size_bytes"] for one in data["metadata"]["gguf"]}
    assert found == {"mmproj-F16": 100, "IQ2_XXS": 2000, "Q4_K_M": 3000, "Q8_0": 8500, "BF16": 9000}
    assert list(found) == sorted(found, key=found.__getitem__), "smallest first"
    assert data["metadata"]["quantization"]["method"] == "gguf"
    out = mlxk_here("show", "m").out
    assert "GGUF Q4_K_M" in out
    assert "8.5 KB in 2 parts" in out
    assert "unsupported" in out


@pytest.mark.parametrize(("bits", "label"), [(2, "int2"), (3, "int3"), (4, "int4"), (6, "int6"), (8, "int8")])
def test_precisions_have_short_names(mlxk_here, local, bits, label):
    quantize(local("m"), "affine", bits, 64)
    found = mlxk_here("show", "m", "--json").data["metadata"]["quantization"]
    assert (found["label"], found["bits"], found["group_size"]) == (label, bits, 64)
    assert found["requires"] is None


@pytest.mark.parametrize(("dtype", "label"), [("float32", "f32"), ("float16", "f16"), ("bfloat16", "bf16")])
def test_plain_precisions_are_shown(mlxk_here, local, dtype, label):
    model = local("m")
    mx.save_safetensors(str(model / "model.safetensors"), {"w": mx.ones((4, 4), dtype=getattr(mx, dtype))})
    assert f"{label}, not quantized" in mlxk_here("show", "m").out


def test_a_mix_is_shown_layer_kind_by_layer_kind(mlxk_here, local):
    model = local("m")
    weights = {}
    for name, bits in (("a", 4), ("b", 4), ("c", 8)):
        packed = mx.quantize(mx.ones((64, 128)), group_size=64, bits=bits)
        weights |= dict(zip((f"{name}.weight", f"{name}.scales", f"{name}.biases"), packed, strict=True))
    weights["norm.weight"] = mx.ones((64,), dtype=mx.bfloat16)
    mx.save_safetensors(str(model / "model.safetensors"), weights)
    table = {"bits": 4, "group_size": 64, "c": {"bits": 8, "group_size": 64}}
    change_json(model / "config.json", quantization=table)
    found = mlxk_here("show", "m", "--json").data["metadata"]["quantization"]
    assert (found["label"], found["mixed"]) == ("mixed, mostly int4", True)
    assert [(one["label"], one["tensors"]) for one in found["layers"]] == [
        ("int4", 2),
        ("int8", 1),
        ("bf16", 1),
    ]
    # 4 and 8 bits, and of each group of 64 a scale and a bias of 32 bits
    values = 64 * 128
    expected = (2 * values * 5 + values * 9 + 64 * 16) / (3 * values + 64)
    assert found["bits_per_weight"] == pytest.approx(expected, abs=0.001)
    assert "int8              1 tensor, groups of 64: 8.2K parameters" in mlxk_here("show", "m").out


# ------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("name", SICK)
def test_a_broken_model_is_shown_as_far_as_its_files_go(mlxk_here, home, name):
    write_sick_models(home, name)
    result = mlxk_here("show", "sick")
    assert result.code == 0
    assert result.err == ""
    assert SICK[name].words in result.out
    assert mlxk_here("show", "sick", "--json").code == 0


def test_the_memory_is_the_server_s_own_forecast(mlxk_here, home):
    from mlxk.supervisor.costs import OVERHEAD_BYTES

    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text('[server]\nmax_memory = "100MB"\n')
    memory = mlxk_here("show", "tiny", "--json").data["metadata"]["memory"]
    assert memory["limit_bytes"] == 100_000_000
    assert memory["fits"] is False
    weights = builtin_path().joinpath("model.safetensors").stat().st_size
    assert memory["weights_bytes"] == weights
    assert memory["need_bytes"] == int(weights * 1.1) + memory["cache_bytes"] + OVERHEAD_BYTES
    assert "does not fit: all models together may take 100 MB" in mlxk_here("show", "tiny").out


def test_the_configuration_and_the_model_card_are_told(mlxk_here, home, local):
    model = local("m")
    (model / "README.md").write_text("---\nlanguage: en\nlicense: llama3.1\n---\n# M\nlicense: none\n")
    (model / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20, "eos_token_id": 1}')
    (home / "config.toml").write_text('[models.short]\nid = "m"\n\n[models.m]\npinned = true\n')
    facts = mlxk_here("show", "m", "--json").data["metadata"]
    assert facts["license"] == "llama3.1"
    assert facts["generation_defaults"] == {"temperature": 0.6, "top_k": 20}
    assert facts["configured"] == {"aliases": ["short"], "settings": {"pinned": True}}
    assert "aliases           short" in mlxk_here("show", "m").out


def test_a_part_alone_is_printed_as_it_is(mlxk_here, local):
    model = local("m")
    assert mlxk_here("show", "m", "--template").out == (model / "chat_template.jinja").read_text() + "\n"
    assert json.loads(mlxk_here("show", "m", "--config").out) == json.loads(
        (model / "config.json").read_text()
    )
    assert mlxk_here("show", "m", "--files").out.splitlines()[0].split() == ["FILE", "SIZE"]
    data = mlxk_here("show", "m", "--template", "--json").data
    assert data["metadata"]["template"] == (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    result = mlxk_here("show", "m", "--template")
    assert (result.code, result.err) == (1, "error: m has no chat template, as base models have none\n")
    assert mlxk_here("show", "m", "--template", "--json").data["metadata"]["template"] is None


def test_snapshots_are_told_apart(mlxk_here, home):
    repo = Path(os.environ["HF_HOME"]) / "hub" / "models--org--m"
    for revision in ("a" * 40, "b" * 40):
        (repo / "snapshots").mkdir(parents=True, exist_ok=True)
        copy_tiny(repo / "snapshots" / revision)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("b" * 40)
    facts = mlxk_here("show", "org/m", "--json").data["metadata"]
    assert facts["revision"] == "b" * 40
    assert {one["hash"][0]: one["current"] for one in facts["revisions"]} == {"a": False, "b": True}
    assert "also here: org/m@aaaaaaaaaaaa" in mlxk_here("show", "org/m").out
    shutil.rmtree(repo)
    assert mlxk_here("show", "org/m").code == 4


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (870272, "870K"), (7_240_000_000, "7.2B"), (999_600, "1.0M"), (2e12, "2.0T")],
)
def test_counts_are_short(count, text):
    assert format_count(int(count)) == text


def test_the_values_of_a_models_environment_are_not_shown(mlxk_here, home):
    home.mkdir(exist_ok=True)
    table = '[models.tiny]\ntemperature = 0.5\nenvironment = { HF_TOKEN = "geheim" }\n'
    (home / "config.toml").write_text(table, encoding="utf-8")
    data = mlxk_here("show", "tiny", "--json").data
    assert data["metadata"]["configured"]["settings"] == {
        "temperature": 0.5,
        "environment": {"HF_TOKEN": "***"},
    }
    assert "geheim" not in mlxk_here("show", "tiny").out
