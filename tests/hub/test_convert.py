"""`mlxk convert` with real MLX: a small random model becomes another one, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.hub.conftest import NAME, Machine, StartProcess
from tests.hub.stand_in import Hub
from tests.models import make_random_model
from tests.process.watch import until
from tests.server import wait_gone

RANDOM = "rand"


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_model(tmp_path_factory.mktemp("random") / RANDOM, "llama")


@pytest.fixture
def models(machine: Machine, random_model: Path) -> Path:
    """MLXK_HOME/models with one plain model in it."""
    shutil.copytree(random_model, machine.home / "models" / RANDOM)
    return machine.home / "models"


@pytest.fixture
def unchanged(models: Path) -> Iterator[Path]:
    """Afterwards nothing else may lie there, hidden or not."""
    yield models
    assert os.listdir(models) == [RANDOM]


def test_the_result_is_quantized_loads_and_answers(machine: Machine, models: Path) -> None:
    data = machine.mlxk("convert", RANDOM, "--group-size", "32", "--json").data
    assert data["name"] == "rand-4bit-g32"
    assert data["quantization"] == {"bits": 4, "group_size": 32, "mode": "affine"}
    assert data["size_bytes"] < data["source_bytes"] / 3
    answer = machine.run("run", data["name"], "hello", "--max-tokens", "3", "--json")
    assert answer.data["usage"]["completion_tokens"] == 3
    assert sorted(os.listdir(models)) == [RANDOM, "rand-4bit-g32"]


def test_dequantized_it_is_plain_again(machine: Machine, models: Path) -> None:
    machine.mlxk("convert", RANDOM, "--mode", "mxfp4")
    assert machine.mlxk("convert", "rand-mxfp4", "--json").error["type"] == "already_quantized"
    data = machine.mlxk("convert", "rand-mxfp4", "--dequantize", "--output", "plain", "--json").data
    assert (data["name"], data["quantization"]) == ("plain", None)
    assert "quantization" not in json.loads((models / "plain" / "config.json").read_text())


def test_a_folder_and_a_path_for_the_output(machine: Machine, random_model: Path) -> None:
    target = machine.root / "out" / "here"
    result = machine.mlxk("convert", str(random_model), "--dtype", "float16", "--output", str(target))
    assert result.code == 0
    assert str(target) in result.out
    assert (target / "config.json").is_file()


def test_a_model_of_the_hub_is_pulled_first(hub: Hub, machine: Machine, random_model: Path) -> None:
    hub.add(NAME, {file.name: file.read_bytes() for file in random_model.iterdir()})
    data = machine.mlxk("convert", NAME, "--dtype", "bfloat16", "--json").data
    assert (data["source"], data["name"]) == (NAME, "Small-4bit-bfloat16")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bits", "7"], "not to 7"),
        (["--group-size", "48"], "not of 48"),
        (["--mode", "mxfp4", "--bits", "8"], "always 4 bits in groups of 32"),
        (["--dequantize", "--bits", "4"], "goes with --dtype only"),
        (["--output", ".hidden"], "is no name for a model"),
        (["--repair", "--bits", "4"], "changes nothing else"),
    ],
    ids=["bits", "group", "mode", "dequantize", "name", "repair"],
)
def test_what_cannot_be_asked_for_is_a_usage_error(
    machine: Machine, unchanged: Path, options: list[str], words: str
) -> None:
    result = machine.mlxk("convert", RANDOM, *options, "--json")
    assert (result.code, result.error["type"]) == (2, "usage")
    assert words in result.error["message"]


def test_refusals_before_the_work(machine: Machine, unchanged: Path) -> None:
    assert machine.mlxk("convert", RANDOM, "--dequantize", "--json").error["type"] == "not_quantized"
    assert machine.mlxk("convert", RANDOM, "--output", RANDOM, "--json").error["type"] == "already_exists"
    assert machine.mlxk("convert", "nowhere", "--json").code == 4
    assert machine.mlxk("convert", "./nowhere", "--json").code == 4


@pytest.mark.parametrize("as_path", [False, True], ids=["name", "path"])
def test_a_name_that_would_lead_elsewhere_is_refused(
    machine: Machine, unchanged: Path, as_path: bool
) -> None:
    (machine.home / "config.toml").write_text(
        f'[models.fast]\nid = "{RANDOM}"\n[models.own]\npath = "/elsewhere"\n[models.plain]\nmax_tokens = 7\n'
    )
    for name, owner in (("tiny", "built-in"), ("fast", "config.toml"), ("own", "config.toml")):
        output = str(unchanged / name) if as_path else name
        # A model that is nowhere, too: the refusal comes before anything is looked for or pulled.
        for model in (RANDOM, "org/nowhere"):
            error = machine.mlxk("convert", model, "--output", output, "--json").error
            assert error["type"] == "already_exists"
            assert f"'{name}' is the name of" in error["message"]
            assert owner in error["message"]


def test_a_section_without_a_place_takes_no_name(machine: Machine, models: Path) -> None:
    (machine.home / "config.toml").write_text(
        f'[models.plain]\nmax_tokens = 7\n[models.there]\npath = "{models / "there"}"\n'
    )
    for name in ("plain", "there"):
        result = machine.mlxk("convert", RANDOM, "--dtype", "float16", "--output", name)
        assert result.code == 0, result.err


def test_no_space_is_known_before_the_work(machine: Machine, unchanged: Path) -> None:
    machine.monkeypatch.setattr("mlxk.store.space.free_bytes", lambda _path: 1000)
    assert machine.mlxk("convert", RANDOM, "--json").error["type"] == "no_space"


def test_a_failure_of_mlx_lm_is_told_and_leaves_nothing(machine: Machine, unchanged: Path) -> None:
    config = unchanged / RANDOM / "config.json"
    facts = json.loads(config.read_text())
    config.write_text(json.dumps(facts | {"hidden_size": 128}))
    result = machine.mlxk("convert", RANDOM, "--json")
    assert result.error["type"] == "conversion_failed"
    assert "mlx_lm could not convert it" in result.error["message"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_an_interrupted_conversion_leaves_no_process_and_no_model(
    machine: Machine, models: Path, start: StartProcess, number: signal.Signals
) -> None:
    process = start("convert", RANDOM, "--json")
    until(lambda: [*models.glob(".mlxk-converting-*")], 60)
    if number == signal.SIGKILL:
        until(lambda: psutil.Process(process.pid).children(), 60)
    children = [child.pid for child in psutil.Process(process.pid).children()]
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert wait_gone(children, 60) == []
    if number == signal.SIGKILL:
        assert machine.mlxk("convert", RANDOM, "--dtype", "float16").code == 0
        shutil.rmtree(models / "rand-float16")
    assert os.listdir(models) == [RANDOM]


def test_repair_writes_a_missing_or_wrong_index(machine: Machine, models: Path) -> None:
    folder = models / RANDOM
    assert "is right" in machine.mlxk("convert", RANDOM, "--repair").out
    index = folder / "model.safetensors.index.json"
    index.write_text(
        '{"metadata": {"note": "kept"}, "weight_map": {"w": "model-00009-of-00009.safetensors"}}'
    )
    assert machine.mlxk("show", RANDOM, "--json").code in (0, 1)
    data = machine.mlxk("convert", RANDOM, "--repair", "--json").data
    assert data["repaired"] is True
    written = json.loads(index.read_text())
    assert set(written["weight_map"].values()) == {"model.safetensors"}
    assert written["metadata"]["note"] == "kept"
    assert len(written["weight_map"]) == data["tensors"]
    os.truncate(folder / "model.safetensors", 100_000)
    assert machine.mlxk("convert", RANDOM, "--repair", "--json").error["type"] == "cannot_repair"


def test_repair_in_the_hubs_cache_does_not_write_through_links(
    hub: Hub, machine: Machine, random_model: Path
) -> None:
    wrong = json.dumps({"metadata": {}, "weight_map": {"w": "model.safetensors"}}).encode()
    files = {file.name: file.read_bytes() for file in random_model.iterdir()}
    hub.add(NAME, files | {"model.safetensors.index.json": wrong})
    machine.mlxk("pull", NAME)
    assert machine.mlxk("convert", NAME, "--repair", "--json").data["repaired"] is True
    assert wrong in [blob.read_bytes() for blob in (machine.repo() / "blobs").iterdir()]
