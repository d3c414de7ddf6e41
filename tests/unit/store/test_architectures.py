"""The cheap answer to "does mlx_lm know this architecture?" against mlx_lm's own."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import pytest
from mlx_lm import utils

from mlxk.store.architecture_probe import Probe, refusal
from mlxk.store.architectures import KnownArchitectures, known_architectures, stamp
from mlxk.store.builtin import builtin_path
from mlxk.store.support import is_older
from mlxk.store.weight_formats import AFFINE_BITS, AFFINE_GROUPS, FIXED_MODES


@pytest.fixture(scope="module")
def known() -> KnownArchitectures:
    found = known_architectures()
    assert found is not None
    return found


def mlx_lm_knows(config: dict[str, Any]) -> bool:
    try:
        utils._get_classes(config)
    except (Exception, SystemExit):
        return False
    return True


def test_the_tables_are_mlx_lm_s(known: KnownArchitectures) -> None:
    assert dict(known.remapping) == utils.MODEL_REMAPPING
    assert dict(known.by_architecture) == utils.MODEL_ARCHITECTURE_REMAPPING


def test_the_answer_is_mlx_lm_s_for_all_of_its_models(known: KnownArchitectures) -> None:
    modules = [name.removesuffix(".py") for name in os.listdir(known.folder / "models")]
    types = {*modules, *utils.MODEL_REMAPPING, *(key[0] for key in utils.MODEL_ARCHITECTURE_REMAPPING)}
    architectures = [None, *([key[1]] for key in utils.MODEL_ARCHITECTURE_REMAPPING), "LlamaForCausalLM"]
    assert len(types) > 100
    for model_type in sorted(types):
        for listed in architectures:
            config = {"model_type": model_type, "architectures": listed}
            module = known.module_of(config)
            here = module is not None and not known.missing_packages(module)
            assert here == mlx_lm_knows(config), config


def test_what_a_model_takes_is_read_from_its_source(known: KnownArchitectures) -> None:
    _, arguments = utils._get_classes({"model_type": "qwen3"})
    own = [one.name for one in dataclasses.fields(arguments)]
    assert own == list(known.arguments("qwen3"))
    assert known.arguments("qwen3")["hidden_size"] == "int"
    assert known.arguments("nobody") == {}


@pytest.mark.parametrize(
    "model_type",
    ["Llama", "base", "cache", "nobody", "a.b", "../llama", "llama.", "", " ", "llama\x00", "__init__", "é"],
)
def test_other_names_are_no_architectures(known: KnownArchitectures, model_type: str) -> None:
    config = {"model_type": model_type}
    assert known.module_of(config) is None
    assert not mlx_lm_knows(config)


@pytest.mark.parametrize("value", [None, 1, [], {}, True])
def test_what_is_no_name_is_no_architecture(known: KnownArchitectures, value: Any) -> None:
    assert known.module_of({"model_type": value}) is None
    assert known.module_of({"model_type": "llama", "architectures": value}) == "llama"
    assert known.module_of({"model_type": "llama", "architectures": [value]}) == "llama"


def test_asking_imports_no_mlx() -> None:
    from tests.unit.test_architecture import loaded_by

    asked = (
        "from mlxk.store.architectures import known_architectures as k; k().module_of({'model_type': 'olmo'})"
    )
    assert not loaded_by(asked) & {"mlx", "mlx_lm", "numpy", "transformers", "huggingface_hub"}
    assert str(utils.__file__).removesuffix("utils.py").rstrip("/") in stamp()


def test_the_probe_asks_mlx_lm_itself() -> None:
    whole = json.loads((builtin_path() / "config.json").read_text())
    with Probe() as probe:
        answers = probe.ask(
            [whole, {"model_type": "nobody"}, {"model_type": "olmo"}, {"model_type": "llama"}, {}]
        )
    assert answers is not None
    assert answers[0] is None
    assert answers[1] is not None
    assert "nobody not supported" in answers[1]
    assert "SystemExit" in (answers[2] or ""), "its module ends the process that imports it"
    assert "hidden_size" in (answers[3] or ""), "a config.json without what the architecture needs"
    assert answers[4] is not None
    assert refusal(whole) is None


# ------------------------------------------------------------------ quantization modes


def test_the_modes_are_those_of_the_installed_mlx() -> None:
    import mlx.core as mx

    def works(mode: str, bits: int, group_size: int) -> bool:
        try:
            mx.eval(mx.quantize(mx.ones((128, 128)), group_size=group_size, bits=bits, mode=mode))
        except ValueError:
            return False
        return True

    for bits in range(1, 10):
        for group_size in (8, 16, 32, 64, 128, 256):
            ours = bits in AFFINE_BITS and group_size in AFFINE_GROUPS
            # mlx.core.quantize wants a row of 256 for groups of 256: refused either way.
            assert works("affine", bits, group_size) == ours, (bits, group_size)
            for mode, only in FIXED_MODES.items():
                assert works(mode, bits, group_size) == ((bits, group_size) == only), mode


@pytest.mark.parametrize(
    ("installed", "needed", "older"),
    [
        ("0.28.0", "0.29.0", True),
        ("0.29.0", "0.29.0", False),
        ("0.29.3", "0.29.4", True),
        ("0.32.4", "0.29.4", False),
        ("0.30.0.dev1", "0.29.4", False),
        ("1.0", "0.29.4", False),
    ],
)
def test_versions_are_compared_by_number(installed: str, needed: str, older: bool) -> None:
    assert is_older(installed, needed) is older
