"""Several models at once, each in a process of its own, seen and stopped from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import psutil

from tests.api.client import Client
from tests.e2e.conftest import add_random_model
from tests.e2e.prompts import ENDLESS
from tests.server import Server, add_tiny_copy, is_alive

RANDOM_ENDLESS = {"ignore_eos": True, "max_tokens": 30000}
MODELS = ("tiny", "tiny-copy", "random")


def test_three_models_stream_at_once_from_three_processes(home: Path) -> None:
    add_tiny_copy(home, "tiny-copy")
    add_random_model(home, "random")
    server = Server(home, MODELS, env={"MLXK_SPARE": "no"})
    try:
        client = Client(server.url)
        client.wait_ready(*MODELS)
        for name in MODELS:
            client.text(name, "Something to keep", max_tokens=2)
        client.wait_pool(lambda models: all(models[name]["cache"]["bytes"] > 0 for name in MODELS))
        with (
            client.background_text("tiny", "One, two", **ENDLESS) as tiny,
            client.background_text("tiny-copy", "One, two", **ENDLESS) as copy,
            client.background_text("random", "One, two", **RANDOM_ENDLESS) as random,
        ):
            for stream in (tiny, copy, random):
                stream.wait_more(5)
            pids = check_ps(server)
            copy.leave()
            client.wait_pool(lambda models: models["tiny-copy"]["in_flight"] == 0)

            stopped = server.cli("stop", "tiny-copy")
            # It returns when the process is gone, not before.
            assert not is_alive(pids["tiny-copy"])
            assert (stopped.returncode, stopped.stderr) == (0, "")
            assert stopped.stdout.startswith("stopped tiny-copy, freed ")
            assert set(client.pool()) == {"tiny", "random"}
            for stream in (tiny, random):
                assert not stream.ended
                stream.wait_more(5)
        check_the_end(server, client)
    finally:
        server.close()


def check_ps(server: Server) -> dict[str, int]:
    """`ps` as a table and as JSON; returns the pids."""
    table = server.cli("ps", "--wide")
    assert table.returncode == 0
    head, *rows = table.stdout.splitlines()
    assert head.split()[:9] == ["NAME", "ID", "STATE", "SIZE", "MEM", "CACHE", "REQS", "TOK/S", "UNTIL"]
    assert {row.split()[0] for row in rows} == set(MODELS)
    assert all(row.split()[2] == "ready" for row in rows)

    envelope = json.loads(server.cli("ps", "--json").stdout)
    assert (envelope["status"], envelope["command"], envelope["error"]) == ("success", "ps", None)
    models = {model["name"]: model for model in envelope["data"]["models"]}
    assert set(models) == set(MODELS)
    pids = {name: model["pid"] for name, model in models.items()}
    assert len({*pids.values(), server.pid}) == 4
    assert set(pids.values()) <= set(server.worker_pids())
    for model in models.values():
        assert psutil.Process(model["pid"]).ppid() == server.pid
        assert model["memory_bytes"] > 20_000_000
        assert model["size_bytes"] > 100_000
        assert (model["in_flight"], model["queued"], model["until"]) == (1, 0, None)
        assert set(model["cache"]) == {"entries", "bytes", "hits", "misses", "reused_tokens"}
        assert model["cache"]["entries"] >= 1
        assert model["cache"]["bytes"] > 0
    return pids


def check_the_end(server: Server, client: Client) -> None:
    """`mlxk stop`: exit 0, and no process, no socket, no record of the server."""
    client.wait_pool(lambda models: all(model["in_flight"] == 0 for model in models.values()))
    workers = server.worker_pids()
    sockets = Path(server.control_path).parent
    assert sockets.is_dir()
    stopped = server.cli("stop")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert stopped.stdout.startswith("stopped the server")
    assert not [pid for pid in workers if is_alive(pid)]
    assert server.wait(5) == 0
    assert not sockets.exists()
    assert not (server.home / "instance.json").exists()
