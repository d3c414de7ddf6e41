"""The pool over HTTP: what is loaded, load, stop, keep-alive; and a server on its way out."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.client import CHAT, Client, chat_body, wait_until
from tests.server import Server, add_fake_model, is_alive, standing

MODEL_KEYS = {
    "name",
    "state",
    "pid",
    "size_bytes",
    "memory_bytes",
    "cache",
    "in_flight",
    "queued",
    "tokens_per_s",
    "until",
    "uptime_s",
    "restarts",
    "pinned",
    "last_error",
}
CACHE_KEYS = {"entries", "bytes", "hits", "misses", "reused_tokens"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("pool")
    add_fake_model(home, "org/fake-one")
    add_fake_model(home, "steady", step_s=0.02)
    with standing(Server(home, env={"MLXK_ENGINE": "fake"})) as server:
        yield server


@pytest.fixture
def pool(server: Server) -> Client:
    return Client(server.url)


def test_the_pool_is_what_ps_shows(server: Server, pool: Client) -> None:
    pool.chat("tiny", "Hi", max_tokens=2)
    data = pool.get("/pool").json()
    told = json.loads(server.cli("ps", "--json").stdout)["data"]
    assert set(data) == set(told) == {"server", "models"}
    assert {"pid", "url", "version", "uptime_s", "memory_limit_bytes"} <= set(data["server"])
    assert (data["server"]["pid"], data["server"]["url"]) == (server.pid, server.url)
    tiny = pool.pool()["tiny"]
    assert set(tiny) >= MODEL_KEYS
    assert set(tiny["cache"]) == CACHE_KEYS
    assert (tiny["state"], tiny["in_flight"], tiny["queued"]) == ("ready", 0, 0)
    assert tiny["pid"] in server.worker_pids()
    assert [model["pid"] for model in data["models"]] == [model["pid"] for model in told["models"]]


def test_load_and_stop_over_http(pool: Client) -> None:
    loaded = pool.post("/pool/org/fake-one/load")
    assert loaded.status == 200
    assert (loaded.json()["name"], loaded.json()["already_loaded"]) == ("org/fake-one", False)
    pid = pool.pool()["org/fake-one"]["pid"]
    assert pool.post("/pool/org/fake-one/load").json()["already_loaded"] is True
    stopped = pool.request("DELETE", "/pool/org/fake-one")
    assert (stopped.status, stopped.json()["stopped"]) == (200, True)
    assert not is_alive(pid)
    assert "org/fake-one" not in pool.pool()
    again = pool.request("DELETE", "/pool/org/fake-one")
    assert (again.status, again.json()["stopped"]) == (200, False)


def test_unknown_models_are_404_for_load_and_stop(pool: Client) -> None:
    for reply in (pool.post("/pool/nobody/load"), pool.request("DELETE", "/pool/nobody")):
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("query", ["timeout_s=x", "timeout_s=-1", "timeout_s=nan", "now=maybe"])
def test_a_wrong_query_is_a_400_that_names_it(pool: Client, query: str) -> None:
    reply = pool.request("DELETE", f"/pool/tiny?{query}")
    assert (reply.status, reply.error["param"]) == (400, query.partition("=")[0])


def test_a_stop_waits_for_the_running_request(pool: Client) -> None:
    with pool.background("steady", "Hi", max_tokens=40) as running:
        running.wait_begun()
        stopped = pool.request("DELETE", "/pool/steady")
        assert stopped.json()["stopped"] is True
        answer = running.result()
    assert (answer.finish_reason, answer.done) == ("length", True)
    assert answer.content.endswith("w39")


def test_a_stop_now_ends_the_running_request_with_an_error(pool: Client) -> None:
    with pool.background("steady", "Hi", max_tokens=2000) as running:
        running.wait_more(2)
        assert pool.request("DELETE", "/pool/steady?now=true").json()["stopped"] is True
        answer = running.result()
    assert answer.error is not None
    assert answer.error["code"] == "model_stopped"
    assert not answer.done
    # The next request loads it again.
    assert pool.chat("steady", "Hi", max_tokens=1)["choices"]


# -------------------------------------------------------------------------- keep-alive


def test_keep_alive_decides_how_long_a_model_stays(pool: Client) -> None:
    pool.chat("tiny", "Hi", max_tokens=1, keep_alive="2m")
    until = pool.wait_pool(lambda models: models["tiny"]["until"])
    assert 100 < until <= 120
    pool.chat("tiny", "Hi", max_tokens=1, keep_alive=-1)
    pool.wait_pool(lambda models: models["tiny"]["until"] == -1)
    pid = pool.pool()["tiny"]["pid"]
    pool.chat("tiny", "Hi", max_tokens=1, keep_alive=0)
    pool.wait_pool(lambda models: "tiny" not in models)
    assert not is_alive(pid)


# -------------------------------------------------------------------------- disconnects


def test_a_client_that_leaves_ends_its_request(pool: Client) -> None:
    with pool.stream(CHAT, chat_body("steady", "Hi", max_tokens=4000)) as stream:
        stream.first_content()
        assert pool.pool()["steady"]["in_flight"] == 1
    pool.wait_pool(lambda models: models["steady"]["in_flight"] == 0)  # not after the 80 s of its answer


# ---------------------------------------------------------------------------- one place


def test_with_room_for_one_model_the_other_waits_for_the_stream(home: Path) -> None:
    add_fake_model(home, "steady", step_s=0.02)
    server = Server(home, ["--max-models", "1", "steady"], env={"MLXK_ENGINE": "fake"})
    try:
        client = Client(server.url)
        with client.background("steady", "Hi", max_tokens=40) as streaming:
            streaming.wait_begun()
            pid = client.pool()["steady"]["pid"]
            reply = client.chat("tiny", "Hi", max_tokens=3)
            # Asked of the processes: that the stream has ended is known to its thread only when that has run.
            assert set(client.pool()) == {"tiny"}
            assert not is_alive(pid)
            assert streaming.result().content.endswith("w39")
        assert reply["choices"][0]["message"]["content"] == "w0 w1 w2"
    finally:
        server.close()


# ------------------------------------------------------------------------------ closing


def test_a_server_that_drains_refuses_new_work_and_finishes_the_old(home: Path) -> None:
    add_fake_model(home, "steady", step_s=0.05)
    server = Server(home, env={"MLXK_ENGINE": "fake"})
    try:
        client = Client(server.url)
        # The second one keeps the drain going until all has been asked, however long that takes.
        with (
            client.background("steady", "Hi", max_tokens=40) as running,
            client.background("steady", "Ho", max_tokens=4000) as holding,
        ):
            running.wait_begun()
            holding.wait_begun()
            server.signal(signal.SIGTERM)
            wait_until(lambda: client.get("/ready").status == 503)
            assert client.get("/ready").error["code"] == "shutting_down"
            assert client.get("/health").status == 200
            refused = client.post(CHAT, chat_body("steady", "Hi"))
            assert (refused.status, refused.error["code"]) == (503, "shutting_down")
            assert int(refused.headers["retry-after"]) >= 1
            answer = running.result()
        assert (answer.finish_reason, answer.done) == ("length", True)
        assert server.wait() == 0
    finally:
        server.close()


def test_ctrl_c_ends_a_live_stream_with_an_error_event(home: Path) -> None:
    add_fake_model(home, "steady", step_s=0.05)
    server = Server(home, env={"MLXK_ENGINE": "fake"})
    try:
        with Client(server.url).background("steady", "Hi", max_tokens=2000) as running:
            running.wait_more(2)
            server.signal(signal.SIGINT)
            answer = running.result()
        assert answer.error is not None
        assert answer.error["code"] == "shutting_down"
        assert not answer.done
        assert server.wait() == 130
    finally:
        server.close()
