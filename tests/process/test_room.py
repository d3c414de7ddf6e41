"""Room for one model: who goes, who waits, who is told why it will never fit."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.client import Request, ask_all
from tests.process.watch import pid_of
from tests.server import Server, add_fake_model, is_alive, standing

FOREVER = 1_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("home")
    for name in ("a", "b", "c"):
        add_fake_model(home, name, step_s=0.005)
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_CACHE": "1MB"}
    with standing(Server(home, ["--max-models", "1"], env=env)) as running:
        yield running


def test_an_idle_model_goes_when_another_is_wanted(server: Server) -> None:
    with Request(server, "a") as request:
        request.text()
    old = pid_of(server, "a")
    with Request(server, "b") as request:
        request.text()
    assert not is_alive(old)
    assert set(server.ps()) == {"b"}


def test_a_busy_model_makes_the_other_request_wait_and_is_not_cut(server: Server) -> None:
    with Request(server, "a", words=FOREVER, stream=True) as running:
        running.next_event()
        pid = pid_of(server, "a")
        with Request(server, "b") as waiting:
            server.wait_for(lambda models: models.get("b", {}).get("queued") == 1)
            for _ in range(20):
                assert "error" not in running.next_event()
            assert is_alive(pid)
            running.hang_up()
            waiting.text()
    assert set(server.ps()) == {"b"}


def test_models_that_take_turns_all_answer(server: Server) -> None:
    answers = ask_all(server, ["a", "b", "c", "a", "b", "c"])
    assert [status for status, _ in answers] == [200] * 6
    assert len(server.ps()) == 1


def test_a_mistyped_name_does_not_evict_the_loaded_model(server: Server) -> None:
    with Request(server, "a") as request:
        request.text()
    pid = pid_of(server, "a")
    with Request(server, "bb") as request:
        assert request.error()["code"] == "model_not_found"
    assert pid_of(server, "a") == pid


def test_a_load_says_who_went_for_it(server: Server) -> None:
    server.call("stop", {"models": ["a", "b", "c"]})
    one_by_one = server.cli("load", "a", "b")
    assert one_by_one.returncode == 0
    assert "; a had to go for it" in one_by_one.stdout
    assert "warning: a was unloaded again for b" in one_by_one.stderr
    loaded = json.loads(server.cli("load", "c", "--json").stdout)["data"]["models"]
    assert [(model["name"], model["evicted"]) for model in loaded] == [("c", ["b"])]
    alone = server.cli("load", "a")
    assert (alone.returncode, alone.stderr) == (0, "")
    assert "c  evicted (room for a)" in server.cli("events", "--no-follow").stdout


def test_a_dry_run_names_the_limit_on_models_where_that_is_it(server: Server) -> None:
    server.call("load", {"models": ["a"]})
    plan = server.cli("load", "--dry-run", "b")
    assert plan.returncode == 0
    assert "evict a" in plan.stdout
    assert "no more than 1 may be loaded at once (--max-models)" in plan.stdout


def test_a_model_that_failed_and_was_removed_is_not_shown(server: Server) -> None:
    folder = add_fake_model(server.home, "dies", die_in_load=True)
    for _ in range(3):
        with Request(server, "dies") as request:
            request.error()
        if server.ps().get("dies", {}).get("state") in ("backoff", "failed"):
            break
    else:
        pytest.fail(f"it has not failed: {server.ps()}")
    shutil.rmtree(folder)
    assert "dies" not in server.ps()


def test_a_server_in_the_background_says_which_of_its_models_will_never_fit(
    tmp_path: Path, clean_environment: None
) -> None:
    add_fake_model(tmp_path, "small")
    pad_weights(add_fake_model(tmp_path, "big"), 400_000_000)
    settings = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_CACHE": "1MB", "MLXK_MAX_MEMORY": "300MB"}
    env = {**os.environ, **settings, "MLXK_HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}

    def mlxk(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "mlxk", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    try:
        for flags in ([], ["--json"]):
            started = mlxk("serve", "--detach", "--port", "0", *flags, "small", "big")
            assert started.returncode == 0
            if flags:
                [trouble] = json.loads(started.stdout)["data"]["not_preloaded"]
                assert (trouble["model"], trouble["type"]) == ("big", "insufficient_memory")
            else:
                assert "warning: big: does not fit" in started.stderr
                assert "server running" in started.stdout
            assert mlxk("stop").returncode == 0
    finally:
        mlxk("stop", "--now")


def test_an_oversize_model_is_refused_with_the_reason_and_evicts_nobody(
    tmp_path: Path, clean_environment: None
) -> None:
    add_fake_model(tmp_path, "small")
    big = add_fake_model(tmp_path, "big")
    pad_weights(big, 400_000_000)
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_CACHE": "1MB", "MLXK_MAX_MEMORY": "300MB"}
    server = Server(tmp_path, env=env)
    try:
        with Request(server, "small") as request:
            request.text()
        pid = pid_of(server, "small")
        with Request(server, "big") as request:
            error = request.error()
        assert request.status == 503
        assert error["code"] == "insufficient_memory"
        assert "--max-memory" in error["message"]
        assert pid_of(server, "small") == pid
    finally:
        server.close()


def pad_weights(model: Path, size: int) -> None:
    """Another shard of that size, sparse: only its header is written."""
    tensor = {"pad": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    header = json.dumps(tensor).encode()
    path = model / "model-pad.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
