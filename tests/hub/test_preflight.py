"""What `mlxk pull` finds out before it writes: seed 002, "Issue #30: Gated Models Preflight", and more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.hub.conftest import NAME, Machine, model_files, weights
from tests.hub.stand_in import GOOD_TOKEN, Fault, Hub


@pytest.fixture
def untouched(machine: Machine) -> Iterator[Machine]:
    """Afterwards the cache must not be there at all: no folder, no lock, no tag."""
    yield machine
    assert not machine.cache.exists()


def test_gated_without_a_token_writes_nothing_and_says_what_to_do(hub: Hub, untouched: Machine) -> None:
    hub.add(NAME, model_files(), gated="manual")
    result = untouched.mlxk("pull", NAME)
    assert result.code == 1
    assert f"{hub.url}/{NAME}" in result.err
    assert "hf auth login" in result.err
    assert "HF_TOKEN" in result.err
    assert "Nothing was written" in result.err


def test_gated_with_a_token_without_access_says_that_it_is_known(
    hub: Hub, untouched: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, model_files(), gated="auto")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    result = untouched.mlxk("pull", NAME, "--json")
    assert result.code == 1
    assert result.error["type"] == "gated_model"
    assert result.error["authenticated"] is True
    assert result.error["url"] == f"{hub.url}/{NAME}"
    assert "accept the conditions" in result.error["message"]


def test_gated_with_access_is_pulled(hub: Hub, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, model_files(), gated="auto")
    hub.allowed.add(GOOD_TOKEN)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    assert machine.mlxk("pull", NAME).code == 0
    assert machine.mlxk("list").out.count(NAME) == 1


def test_the_token_is_not_shown_to_the_storage(
    hub: Hub, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, model_files(), private=True)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    assert machine.mlxk("pull", NAME).code == 0
    at_storage = [one for one in hub.requests if one.path.startswith("/storage/")]
    assert at_storage
    assert all(one.token is None for one in at_storage)
    assert all(one.token == GOOD_TOKEN for one in hub.requests if one.path.startswith("/api/"))


def test_private_is_told_like_missing_with_the_way_to_log_in(hub: Hub, untouched: Machine) -> None:
    hub.add(NAME, model_files(), private=True)
    result = untouched.mlxk("pull", NAME, "--json")
    assert result.code == 4
    assert result.error["type"] == "model_not_found"
    assert "or it is private" in result.error["message"]
    assert "hf auth login" in result.error["message"]


def test_a_missing_model_suggests_and_never_takes_a_namesake(hub: Hub, untouched: Machine) -> None:
    hub.add(NAME, model_files())
    result = untouched.mlxk("pull", "Smal-4bit", "--json")
    assert result.code == 4
    assert result.error["nearest"] == [NAME]
    assert f"Did you mean {NAME}?" in result.error["message"]
    assert not hub.gets("model.safetensors")


def test_a_refused_token_is_named(hub: Hub, untouched: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, model_files())
    hub.bad_tokens.add("hf_old")
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    result = untouched.mlxk("pull", NAME, "--json")
    assert result.error["type"] == "unauthorized"
    assert "your token was not accepted" in result.error["message"]


def test_a_disabled_model_is_named(hub: Hub, untouched: Machine) -> None:
    hub.add(NAME, model_files(), disabled=True)
    assert untouched.mlxk("pull", NAME, "--json").error["type"] == "access_denied"


@pytest.mark.parametrize(
    ("revision", "words"), [("v9", "no branch, tag or commit 'v9'"), ("abcdef0", "'abcdef0'")]
)
def test_an_unknown_revision_is_exit_4(hub: Hub, untouched: Machine, revision: str, words: str) -> None:
    hub.add(NAME, model_files())
    result = untouched.mlxk("pull", f"{NAME}@{revision}", "--json")
    assert (result.code, result.error["type"]) == (4, "revision_not_found")
    assert words in result.error["message"]


def test_a_renamed_model_is_not_taken_unasked(hub: Hub, untouched: Machine) -> None:
    hub.add("new-org/Better", model_files())
    hub.renamed["old-org/Good"] = "new-org/Better"
    result = untouched.mlxk("pull", "old-org/Good", "--json")
    assert (result.code, result.error["type"]) == (4, "model_renamed")
    assert result.error["renamed_to"] == "new-org/Better"
    assert "mlxk pull new-org/Better" in result.error["message"]


@pytest.mark.parametrize("arguments", [("--yes",), ()], ids=["yes", "asked"])
def test_a_renamed_model_is_taken_when_a_person_agrees(
    hub: Hub, machine: Machine, arguments: tuple[str, ...]
) -> None:
    hub.add("new-org/Better", model_files())
    hub.renamed["old-org/Good"] = "new-org/Better"
    result = machine.typing("y\n", "pull", "old-org/Good", *arguments)
    assert result.code == 0
    assert machine.repo("new-org/Better").is_dir()
    assert not machine.repo("old-org/Good").exists()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"model-Q4_K_M.gguf": b"GGUF"}, "GGUF weights only"),
        ({"pytorch_model.bin": b"x", "config.json": b"{}"}, "PyTorch weights only"),
        ({"adapters.safetensors": weights(8), "config.json": b"{}"}, "no model*.safetensors"),
        ({"model.safetensors": weights(8)}, "no config.json"),
        ({"model.safetensors": weights(8), "config.json": b"{}"}, "names no model_type"),
        ({"README.md": b"hello"}, "holds no weights"),
        ({}, "is empty"),
    ],
    ids=["gguf", "pytorch", "adapter", "no-config", "no-type", "no-weights", "empty"],
)
def test_what_mlx_cannot_load_is_not_downloaded(
    hub: Hub, untouched: Machine, files: dict[str, bytes], words: str
) -> None:
    hub.add("org/foreign", files)
    result = untouched.mlxk("pull", "org/foreign", "--json")
    assert result.error["type"] == "not_mlx"
    assert words in result.error["message"]


def test_an_architecture_that_mlx_lm_does_not_know_is_not_downloaded(hub: Hub, untouched: Machine) -> None:
    config = {"model_type": "quantum_llama", "architectures": ["QuantumForCausalLM"]}
    hub.add(NAME, model_files() | {"config.json": json.dumps(config).encode()})
    result = untouched.mlxk("pull", NAME, "--json")
    assert result.error["type"] == "not_mlx"
    assert "quantum_llama" in result.error["message"]


def test_force_takes_every_file_of_a_foreign_model(hub: Hub, machine: Machine) -> None:
    hub.add("org/foreign", {"model-Q4_K_M.gguf": b"GGUF" * 2000, "notes.md": b"hello"})
    result = machine.mlxk("pull", "org/foreign", "--force", "--json")
    assert result.data["models"][0]["files"] == 2
    assert result.data["models"][0]["health"] == "unhealthy"
    assert "GGUF" in result.data["models"][0]["reason"]


def test_no_space_is_known_before_a_byte(hub: Hub, untouched: Machine) -> None:
    hub.add(NAME, model_files())
    hub.claimed_sizes["model.safetensors"] = 10**15
    result = untouched.mlxk("pull", NAME, "--json")
    assert result.error["type"] == "no_space"
    assert result.error["needed_bytes"] > 10**15
    assert 0 < result.error["free_bytes"] < 10**15
    assert "HF_HOME" in result.error["message"]


def test_a_hub_that_cannot_be_reached_is_named(
    hub: Hub, untouched: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    result = untouched.mlxk("pull", NAME, "--json")
    assert result.error["type"] == "hub_unreachable"
    assert "offline" in result.error["message"]


def test_offline_mode_asks_nobody(hub: Hub, untouched: Machine) -> None:
    hub.add(NAME, model_files())
    result = untouched.run("pull", NAME, "--json", HF_HUB_OFFLINE="1")
    assert result.error["type"] == "hub_unreachable"
    assert "HF_HUB_OFFLINE" in result.error["message"]
    assert hub.requests == []


def test_a_cache_that_is_a_file_is_named(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    (machine.root / "hf").write_text("not a folder")
    result = machine.mlxk("pull", NAME, "--json")
    assert result.error["type"] == "read_only"


def _without_roots_rights() -> list[str]:
    """What to put before a command, so that rights of folders count for root too."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and there is no setpriv to change that")
    return ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", "--"]


def test_a_cache_that_may_not_be_written_is_named(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    cache = machine.root / "hf"
    cache.mkdir(mode=0o555)
    done = subprocess.run(
        [*_without_roots_rights(), *machine.command("pull", NAME, "--json")],
        env=machine.env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert json.loads(done.stdout)["error"]["type"] == "read_only", done.stderr
    assert list(cache.iterdir()) == []


def test_names_that_are_none_are_usage_errors(hub: Hub, untouched: Machine) -> None:
    for name in ("a/b/c", "../x", "org/..", "org/name@", "org/name@../x", "", "a b"):
        assert untouched.mlxk("pull", name).code == 2, name
    assert hub.requests == []


def test_tiny_and_folders_of_the_configuration_have_nothing_to_pull(hub: Hub, untouched: Machine) -> None:
    untouched.home.mkdir()
    (untouched.home / "config.toml").write_text('[models."mine"]\npath = "/somewhere"\n')
    assert "comes with mlxk" in untouched.mlxk("pull", "tiny").err
    assert "/somewhere" in untouched.mlxk("pull", "mine").err


def test_an_outage_of_the_api_is_waited_for(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    hub.faults[f"/api/models/{NAME}"] = Fault(status=429, retry_after="0", times=2)
    result = machine.mlxk("pull", NAME)
    assert result.code == 0
    assert result.err.count("429") == 2


def test_a_refusal_for_an_hour_is_not_waited_for(hub: Hub, untouched: Machine) -> None:
    hub.add(NAME, model_files())
    hub.faults[f"/api/models/{NAME}"] = Fault(status=429, retry_after="3600")
    assert untouched.mlxk("pull", NAME, "--json").error["type"] == "hub_unreachable"
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    "name",
    ["../../../evil.json", "/etc/evil.json", "additional_chat_templates/../../../evil.jinja", "a\\b.json"],
)
def test_names_that_lead_out_of_the_cache_are_refused(hub: Hub, untouched: Machine, name: str) -> None:
    hub.add(NAME, model_files() | {name: b"{}"})
    result = untouched.mlxk("pull", NAME, "--json")
    assert result.error["type"] == "hub_error"
    assert "no name for one" in result.error["message"]


def test_an_etag_that_is_a_path_is_refused(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    hub.etags["tokenizer.json"] = "../../../../evil"
    result = machine.mlxk("pull", NAME, "--json")
    assert result.error["type"] == "hub_error"
    assert not list(machine.root.rglob("evil*"))
