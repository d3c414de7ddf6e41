"""Room for one model: who goes, who waits, who is told why it will never fit."""

from __future__ import annotations

import json
import struct
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
