"""Tokenizing when a process dies, a client leaves, the batch is full, or the server ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.client import Client
from tests.process.client import Request
from tests.process.watch import pid_of, until
from tests.server import Server, add_fake_model, standing

FOREVER = 1_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("home")
    add_fake_model(home, "a", step_s=0.005)
    add_fake_model(home, "slow", tokenize_s=60)
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_MAX_BATCH": "1", "MLXK_ABORT_GRACE": "10s"}
    with standing(Server(home, env=env)) as running:
        yield running


def n_running(server: Server, model: str) -> int:
    return int(server.ps().get(model, {}).get("in_flight") or 0)


def test_a_full_batch_does_not_keep_it_waiting(server: Server) -> None:
    client = Client(server.url)
    with Request(server, "a", words=FOREVER, stream=True) as running:
        running.next_event()
        for _ in range(3):
            assert client.post("/tokenize", {"model": "a", "prompt": "x"}).json()["count"] == 1
        with Request(server, "a") as waiting:
            server.wait_for(lambda models: models["a"]["queued"] == 1)
            assert client.post("/detokenize", {"model": "a", "tokens": [120]}).json() == {"prompt": "x"}
            assert server.ps()["a"]["queued"] == 1
            running.hang_up()
            assert waiting.text()
    until(lambda: n_running(server, "a") == 0)


def test_a_worker_that_dies_is_a_503(server: Server) -> None:
    client = Client(server.url)
    with client.whole("/tokenize", {"model": "slow", "prompt": "x"}) as pending:
        server.wait_for(lambda models: models.get("slow", {}).get("in_flight") == 1)
        os.kill(pid_of(server, "slow"), signal.SIGKILL)
        reply = pending.read()
    assert (reply.status, reply.error["code"]) == (503, "worker_died")
    assert reply.headers["retry-after"]
    assert client.post("/tokenize", {"model": "a", "prompt": "x"}).status == 200


def test_who_leaves_costs_nobody_the_worker(server: Server) -> None:
    """A tokenizer cannot be interrupted; the abort is acknowledged all the same, within its grace."""
    client = Client(server.url)
    with client.whole("/tokenize", {"model": "slow", "prompt": "x"}):
        server.wait_for(lambda models: models.get("slow", {}).get("in_flight") == 1)
        pid = pid_of(server, "slow")
    until(lambda: n_running(server, "slow") == 0)
    assert client.text("slow", "go", max_tokens=3)["choices"][0]["text"] == "w0 w1 w2"
    assert pid_of(server, "slow") == pid


def test_a_stop_of_the_model_ends_it(server: Server) -> None:
    client = Client(server.url)
    with client.whole("/detokenize", {"model": "slow", "tokens": [1]}) as pending:
        server.wait_for(lambda models: models.get("slow", {}).get("in_flight") == 1)
        assert client.request("DELETE", "/pool/slow?now=true").json()["stopped"] is True
        reply = pending.read()
    assert reply.status == 503
    assert reply.error["code"] in ("cancelled", "model_stopped", "worker_died")


def test_the_end_of_the_server_is_told(tmp_path: Path) -> None:
    add_fake_model(tmp_path, "slow", tokenize_s=60)
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_DRAIN_TIMEOUT": "0"}
    server = Server(tmp_path, env=env)
    try:
        with Client(server.url).whole("/tokenize", {"model": "slow", "prompt": "x"}) as pending:
            server.wait_for(lambda models: models.get("slow", {}).get("in_flight") == 1)
            server.signal(signal.SIGTERM)
            reply = pending.read()
        assert (reply.status, reply.error["code"]) == (503, "shutting_down")
        assert server.wait() == 0
    finally:
        server.close()
