"""Memory with real models: a cache gives way before a model does, and peaks are remembered."""

from __future__ import annotations

from pathlib import Path

from tests.api.client import Client
from tests.server import Server, add_tiny_copy

STORY = "Once upon a time there was a machine that counted from one to ten and back again. "


def plan(server: Server, name: str) -> dict[str, object]:
    models: list[dict[str, object]] = server.call("load", {"models": [name], "dry_run": True})["models"]
    return models[0]


def test_a_real_cache_gives_way_before_a_model_does_and_its_peak_is_remembered(home: Path) -> None:
    add_tiny_copy(home, "tiny-copy")
    env = {"MLXK_SPARE": "0", "MLXK_CACHE": "100MB"}
    server = Server(home, ["--max-memory", "2GB"], env=env)
    try:
        guessed = plan(server, "tiny")
        assert guessed["need_source"] == guessed["load_s_source"] == "estimated"
        client = Client(server.url)
        for i in range(4):
            client.text("tiny", f"{i} {STORY * 8}", max_tokens=4)
        assert client.cache("tiny")["bytes"] > 0
    finally:
        server.close()
    # Room for both, but for 50 MB of their caches. What tiny needs is known by now.
    server = Server(home, ["--max-memory", "2GB"], env=env)
    try:
        known = plan(server, "tiny")
        assert known["need_source"] == known["load_s_source"] == "measured"
        unknown = plan(server, "tiny-copy")
        need = int(str(known["need_bytes"])) + int(str(unknown["need_bytes"]))
    finally:
        server.close()
    server = Server(home, ["--max-memory", str(need - 50_000_000)], env=env)
    try:
        client = Client(server.url)
        client.text("tiny", STORY, max_tokens=4)
        pid = client.pool()["tiny"]["pid"]
        expected = plan(server, "tiny-copy")
        assert expected["verdict"] == "makes_room"
        assert expected["trim"]
        assert not expected["evict"]
        client.text("tiny-copy", STORY, max_tokens=4)
        assert client.pool()["tiny"]["pid"] == pid
        assert "trimming the prefix cache of tiny" in server.log()
        assert "evicting" not in server.log()
        client.text("tiny", STORY, max_tokens=4)  # and it goes on working, with the cache it has left
        assert client.text("tiny", STORY, max_tokens=4)["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    finally:
        server.close()
