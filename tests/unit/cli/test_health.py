"""`mlxk health` over a cache of broken models: every fault that it knows, none crashes anything."""

from __future__ import annotations

import pytest

from mlxk.store.faults import Severity
from tests.unit.cli.sick_cache import write_broken_download, write_sick_models
from tests.unit.store.sick_models import SICK


def test_a_cache_of_all_broken_models_is_reported_one_by_one(mlxk_here, home):
    write_sick_models(home, *SICK)
    write_broken_download("org/part")
    (home / "config.toml").write_text('[models.gone]\nid = "nobody/nothing"\n')
    result = mlxk_here("health", "--json")
    assert result.code == 1
    envelope = result.envelope
    assert envelope["status"] == "error"
    assert envelope["error"]["type"] == "model_unhealthy"
    data = envelope["data"]
    found = {one["name"]: one for one in data["healthy"] + data["unhealthy"]}
    unhealthy = {one["name"] for one in data["unhealthy"]}
    for name, sick in SICK.items():
        one = found[f"sick/{name.replace(' ', '-')}"]
        [problem] = [problem for problem in one["problems"] if problem["type"] == sick.kind][:1]
        assert sick.words in problem["message"], name
        assert problem["severity"] == sick.severity.value
        assert (one["name"] in unhealthy) is (sick.severity is Severity.DAMAGED), name
        assert one["status"] == ("unhealthy" if one["name"] in unhealthy else "healthy")
        assert one["runtime_compatible"] is (sick.severity is Severity.WARNING), one
        assert (one["reason"] is None) is one["runtime_compatible"]
    assert found["tiny"]["problems"] == []
    assert {"org/part", "gone"} <= unhealthy
    assert data["summary"] == {
        "total": len(SICK) + 3,
        "healthy_count": len(data["healthy"]),
        "unhealthy_count": len(data["unhealthy"]),
        "unsupported_count": sum(sick.severity is Severity.UNSUPPORTED for sick in SICK.values()),
    }
    assert sorted(envelope["error"]["models"]) == sorted(unhealthy)

    listed = {one["name"]: one for one in mlxk_here("list", "--json").data["models"]}
    for name, one in listed.items():
        assert one["health"] == found[name]["status"], "list says the same without asking mlx_lm"
        assert one["runtime_compatible"] is found[name]["runtime_compatible"]


def test_people_read_what_is_wrong_and_what_to_do(mlxk_here, home):
    write_sick_models(home, "cut data", "no template", "GGUF")
    result = mlxk_here("health")
    assert result.code == 1
    lines = result.out.splitlines()
    assert lines[0] == "sick/cut-data: unhealthy", "the worst first"
    assert lines[1].startswith("    model.safetensors is cut off: ")
    assert lines[2].startswith("    -> copy the model to ")
    assert "sick/GGUF: unsupported" in lines
    assert "tiny: healthy" in lines
    assert any(line.startswith("    note: it has no chat template") for line in lines)
    assert lines[-1] == "4 models: 2 healthy, 1 unhealthy, 1 not supported"


def test_what_is_only_unsupported_counts_if_it_was_asked_for(mlxk_here, home):
    """Other programs keep their models in the same cache."""
    write_sick_models(home, "pickled")
    assert mlxk_here("health").code == 0
    named = mlxk_here("health", "pickled")
    assert named.code == 1
    assert named.out.splitlines()[0] == "sick/pickled: unsupported"
    assert mlxk_here("health", "tiny", "--json").data["summary"]["healthy_count"] == 1


def test_a_broken_download_can_be_asked_for_by_name(mlxk_here):
    write_broken_download("mlx-community/part")
    for name in ("part", "mlx-community/part"):
        result = mlxk_here("health", name)
        assert result.code == 1
        assert "mlxk pull mlx-community/part" in result.out


@pytest.mark.parametrize(("name", "kind"), [("nobody", "model_not_found"), ("sick/", "ambiguous_model")])
def test_unknown_and_ambiguous_names_are_exit_code_4(mlxk_here, home, name, kind):
    write_sick_models(home, "no config", "no weights")
    result = mlxk_here("health", name, "--json")
    assert (result.code, result.error["type"]) == (4, kind)
