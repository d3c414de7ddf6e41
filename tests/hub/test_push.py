"""`mlxk push` is an experiment: no such verb without the variable, private and confirmed with it."""

from __future__ import annotations

import pytest

from tests.hub.conftest import Machine
from tests.hub.stand_in import GOOD_TOKEN, Hub
from tests.server import add_tiny_copy


@pytest.fixture
def experimental(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("MLXK_EXPERIMENTAL_PUSH", "1")
    folder = add_tiny_copy(machine.home, "mine")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "secret.key").write_text("do not send")
    return machine


@pytest.mark.parametrize("value", [None, "", "0", "yes"])
def test_without_the_variable_there_is_no_such_verb(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv("MLXK_EXPERIMENTAL_PUSH", value)
    assert "push" not in machine.mlxk("--help").out
    result = machine.mlxk("push", "mine", "tester/mine")
    assert result.code == 2
    assert "there is no verb 'push'" in result.err


def test_with_it_the_help_has_it(experimental: Machine) -> None:
    assert "push" in experimental.mlxk("--help").out
    assert "experimental" in experimental.mlxk("push", "--help").out.lower()


def test_without_a_token_nothing_is_sent(hub: Hub, experimental: Machine) -> None:
    result = experimental.mlxk("push", "mine", "tester/mine", "--yes", "--json")
    assert result.error["type"] == "unauthorized"
    assert hub.requests == []


def test_somebody_elses_place_is_refused(
    hub: Hub, experimental: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    result = experimental.mlxk("push", "mine", "other/mine", "--yes", "--json")
    assert result.error["type"] == "access_denied"
    assert hub.created == []


def test_unasked_and_declined_nothing_is_sent(
    hub: Hub, experimental: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    assert experimental.mlxk("push", "mine", "tester/mine").code == 2
    declined = experimental.typing("n\n", "push", "mine", "tester/mine")
    assert declined.code == 1
    assert "as tester to tester/mine, new and private" in declined.err
    assert hub.created == []


def test_a_new_repository_is_private_and_gets_the_models_files_only(
    hub: Hub, experimental: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    result = experimental.mlxk("push", "mine", "tester/mine", "--yes", "--json")
    assert result.code == 0, result
    assert result.data["url"] == f"{hub.url}/tester/mine"
    (created,) = hub.created
    assert created.get("private") is True or created.get("visibility") == "private"
    (upload,) = hub.uploads
    sent = {line["value"]["path"] for line in upload["lines"] if line["key"] == "file"}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= sent
    assert "secret.key" not in sent
