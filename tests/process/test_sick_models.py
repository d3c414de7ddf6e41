"""A running server and models that cannot be used: refused in the words of `mlxk health`, before a worker is
tried; and what `mlxk show` learns from the server."""

from __future__ import annotations

import json

import httpx
import pytest

from mlxk.cli.main import invoke
from mlxk.store.inspection import inspect_model
from tests.envelopes import check_output
from tests.process.conftest import StartServer
from tests.unit.store.damage import copy_tiny
from tests.unit.store.sick_models import SICK

NAMES = ("cut data", "lost shard", "no tokenizer", "unknown architecture", "GGUF", "foreign quantization")


def test_a_sick_model_is_refused_before_a_worker_is_tried(
    start: StartServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start()
    (server.home / "models").mkdir()
    for name in NAMES:
        SICK[name].damage(copy_tiny(server.home / "models" / name.replace(" ", "-")))
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for name in NAMES:
            local = name.replace(" ", "-")
            answer = http.post("/v1/completions", json={"model": local, "prompt": "x"})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "model_unhealthy")
            assert SICK[name].words in error["message"]
            assert inspect_model(server.home / "models" / local).reason in error["message"]
        assert [one["id"] for one in http.get("/v1/models").json()["data"]] == ["tiny"]
        assert http.get("/pool").json()["models"] == []

    monkeypatch.setenv("MLXK_HOME", str(server.home))
    monkeypatch.setenv("HF_HOME", server.env["HF_HOME"])

    def server_facts(name: str) -> dict[str, object]:
        assert invoke(["show", name, "--json"]) == 0
        out = capsys.readouterr().out
        check_output(["show", "--json"], out)
        memory = json.loads(out)["data"]["metadata"]["memory"]
        return memory["server"] and {**memory["server"], "limit": memory["limit_bytes"]}

    before = server_facts("tiny")
    assert before["verdict"] == "fits"
    assert 0 < before["free_bytes"] <= before["limit"]
    assert server_facts("cut-data") is None, "it would not load it"
    assert invoke(["load", "tiny"]) == 0
    capsys.readouterr()
    assert server_facts("tiny")["verdict"] == "loaded"
    assert invoke(["show", "tiny"]) == 0
    assert "it is loaded now" in capsys.readouterr().out
