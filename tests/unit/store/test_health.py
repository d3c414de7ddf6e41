"""Each fault that health knows, in a copy of the built-in model: its kind, its own words, what to do."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mlxk.config.settings import load_settings
from mlxk.store.catalog import Catalog
from mlxk.store.errors import UnhealthyModelError
from mlxk.store.faults import Severity
from mlxk.store.inspection import inspect_model
from tests.unit.store.damage import WEIGHTS, change_json, copy_tiny, replace_bytes, shard
from tests.unit.store.sick_models import SICK


@pytest.fixture
def snapshot(models: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the built-in model where the hub's downloads are, as files."""
    path = models.repo("org/name") / "snapshots" / ("a" * 40)
    path.parent.mkdir(parents=True)
    models.set_main("org/name", "a" * 40)
    return copy_tiny(path)


def test_a_whole_copy_has_no_fault_at_all(snapshot: Path) -> None:
    assert inspect_model(snapshot).faults == ()
    shard(snapshot, 3)
    assert inspect_model(snapshot).faults == ()


@pytest.mark.parametrize("name", SICK)
def test_each_fault_has_its_own_words_and_says_what_to_do(snapshot: Path, name: str) -> None:
    sick = SICK[name]
    sick.damage(snapshot)
    facts = inspect_model(snapshot)
    found = [fault for fault in facts.faults if fault.kind == sick.kind]
    assert found, facts.faults
    assert sick.words in found[0].text
    assert sick.advice in found[0].advice
    assert found[0].severity is sick.severity
    assert facts.healthy is (sick.severity is not Severity.DAMAGED)
    assert facts.usable is (sick.severity is Severity.WARNING)
    assert (facts.reason is None) is facts.usable
    # What every request, load and preload of the server goes through, before a worker is tried:
    catalog = Catalog(load_settings({}))
    assert catalog.locate("org/name").path == snapshot
    if facts.usable:
        assert catalog.resolve("org/name").path == snapshot
    else:
        with pytest.raises(UnhealthyModelError) as refused:
            catalog.resolve("org/name")
        assert facts.faults[0].text in str(refused.value)


def test_several_faults_are_all_told_the_worst_first(snapshot: Path) -> None:
    replace_bytes(snapshot / WEIGHTS, (snapshot / WEIGHTS).read_bytes()[:-1])
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "chat_template.jinja").unlink()
    change_json(snapshot / "config.json", model_type="nobody_knows")
    facts = inspect_model(snapshot)
    kinds = [fault.kind for fault in facts.faults]
    assert sorted(kinds[:2]) == ["no_tokenizer", "truncated"]
    assert kinds[2:] == ["unsupported_architecture", "no_chat_template"]
    assert facts.reason == facts.faults[0].sentence


def test_a_local_model_is_not_told_to_be_pulled(tmp_path: Path) -> None:
    model = copy_tiny(tmp_path / "mine")
    (model / WEIGHTS).unlink()
    [fault] = inspect_model(model).faults
    assert "pull" not in fault.advice
    assert str(model) in fault.advice


def test_another_snapshot_is_pulled_by_its_hash(snapshot: Path, models: Any) -> None:
    models.set_main("org/name", "b" * 40)
    (snapshot / WEIGHTS).unlink()
    assert inspect_model(snapshot).faults[0].advice.endswith("mlxk pull org/name@aaaaaaaaaaaa")


def test_code_of_its_own_is_for_the_configuration_to_allow(models: Any) -> None:
    model = copy_tiny(models.home / "models" / "own")
    change_json(model / "config.json", model_file="own.py")
    assert [fault.kind for fault in inspect_model(model).faults] == ["custom_code"]
    assert inspect_model(model, trusted=True).faults == ()
    (models.home / "config.toml").write_text("[models.own]\ntrust_remote_code = true\n")
    assert Catalog(load_settings({})).resolve("own").path == model


def test_weights_that_are_quantized_must_fit_what_config_says(snapshot: Path) -> None:
    mx = pytest.importorskip("mlx.core")
    weights = {"a.weight": mx.ones((64, 64), dtype=mx.uint32), "a.scales": mx.ones((64, 8))}
    mx.save_safetensors(str(snapshot / WEIGHTS), weights)
    [fault] = inspect_model(snapshot).faults
    assert "config.json does not say how" in fault.text
    change_json(snapshot / "config.json", quantization={"bits": 4, "group_size": 64})
    assert inspect_model(snapshot).faults == ()
    weights["a.scales"] = mx.ones((64, 7))
    mx.save_safetensors(str(snapshot / WEIGHTS), weights)
    [fault] = inspect_model(snapshot).faults
    assert fault.kind == "wrong_quantization"
    assert "does not fit the weights ('a.weight')" in fault.text


def test_a_repaired_model_is_healthy_at_once(snapshot: Path) -> None:
    whole = (snapshot / WEIGHTS).read_bytes()
    replace_bytes(snapshot / WEIGHTS, whole[:-1])
    assert not inspect_model(snapshot).healthy
    replace_bytes(snapshot / WEIGHTS, whole)
    assert inspect_model(snapshot).healthy


NOBODY = 65534


@pytest.mark.parametrize("forbidden", ["config.json", WEIGHTS, "tokenizer.json", "."])
def test_what_may_not_be_read_is_told_with_the_remedy(forbidden: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        model = copy_tiny(Path(place) / "m")
        os.chmod(model / forbidden, 0)
        me = os.geteuid()
        if me == 0:  # root may read everything: look as somebody else
            os.seteuid(NOBODY)
        try:
            faults = inspect_model(model).faults
        finally:
            os.seteuid(me)
            os.chmod(model / forbidden, 0o755)
    [fault] = [fault for fault in faults if fault.kind == "unreadable"]
    assert "cannot be read (Permission denied)" in fault.text
    assert "chmod" in fault.advice


@pytest.mark.parametrize("seed", range(16))
def test_no_damage_crashes_the_look(snapshot: Path, seed: int) -> None:
    """Random bytes anywhere in any of the files."""
    import random

    dice = random.Random(seed)
    if seed % 2:
        shard(snapshot)
    for file in sorted(snapshot.iterdir()):
        data = bytearray(file.read_bytes()[: 1 << 16] if dice.random() < 0.2 else file.read_bytes())
        for _ in range(dice.randrange(4)):
            at = dice.randrange(max(1, min(len(data), 4000)))
            data[at : at + dice.randrange(1, 9)] = dice.randbytes(dice.randrange(9))
        replace_bytes(file, bytes(data))
    facts = inspect_model(snapshot)
    assert all(fault.text and fault.kind for fault in facts.faults)


@pytest.mark.parametrize(
    "key", ["model_type", "architectures", "quantization", "quantization_config", "model_file", "text_config"]
)
def test_no_value_in_config_crashes_the_look(models: Any, tmp_path: Path, key: str) -> None:
    model = models.folder(tmp_path / "m")
    config = json.loads((model / "config.json").read_text())
    for value in (None, 1, "x", [], {}, [1], {"a": 1}, True, 1e300, [[]], {"": None}):
        (model / "config.json").write_text(json.dumps(config | {key: value}))
        assert isinstance(inspect_model(model).faults, tuple)
        for inner in ("bits", "group_size", "mode", "quant_method", "format"):
            table = {"bits": 4, "group_size": 64} | {inner: value}
            (model / "config.json").write_text(json.dumps(config | {key: table}))
            assert isinstance(inspect_model(model).faults, tuple)
