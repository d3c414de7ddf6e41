"""Routes, what is wrong with a route, and the id that every answer carries."""

from __future__ import annotations

import gzip
import json
import re
import time

import pytest

from tests.api.client import CHAT, TEXT, Client, Reply, chat_body
from tests.server import Server


def test_health_and_ready_say_so(client: Client) -> None:
    assert (client.get("/health").status, client.get("/health").json()) == (200, {"status": "ok"})
    assert (client.get("/ready").status, client.get("/ready").json()) == (200, {"status": "ready"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1"),
        ("POST", "/v1/chat"),
        ("GET", "/v1/chat/completions/"),
        ("POST", "/v1/embeddings"),
        ("GET", "/pool/a/b/c/d"),
        ("GET", "/%00"),
        ("GET", "/v1/modelsx"),
    ],
)
def test_an_unknown_route_is_a_404_in_the_envelope(client: Client, method: str, path: str) -> None:
    reply = client.request(method, path)
    # A known path with another method is a 405: /pool/{model} takes DELETE.
    assert reply.status in (404, 405)
    assert reply.error["type"] == "invalid_request_error"
    assert reply.error["code"] in ("not_found", "method_not_allowed")
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("DELETE", TEXT, "POST"),
        ("POST", "/v1/models", "GET"),
        ("PUT", "/health", "GET"),
        ("POST", "/pool", "GET"),
    ],
)
def test_a_wrong_method_is_a_405_that_says_what_is_allowed(
    client: Client, method: str, path: str, allow: str
) -> None:
    reply = client.request(method, path)
    assert reply.status == 405
    assert reply.error["code"] == "method_not_allowed"
    assert allow in reply.headers["allow"]


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("GET", "/v1/models/", "GET /v1/models"),
        ("GET", "/v1/models//", "GET /v1/models"),
        ("GET", "/models/tiny", "GET /v1/models/tiny"),
        ("POST", "/chat/completions", "POST /v1/chat/completions"),
        ("GET", "/completions", "POST /v1/completions"),
        ("POST", "/v1/chat/completions/", "POST /v1/chat/completions"),
        ("POST", "/v1/v1/chat/completions", "POST /v1/chat/completions"),
        ("POST", "/v1/tokenize", "POST /tokenize"),
    ],
)
def test_a_path_that_is_nearly_right_is_a_404_with_the_right_one(
    client: Client, method: str, path: str, meant: str
) -> None:
    reply = client.request(method, path)
    assert (reply.status, reply.error["code"]) == (404, "not_found")
    assert reply.error["message"] == f"There is no {method} {path}. Did you mean {meant}?"


def test_a_compressed_body_is_a_415(client: Client) -> None:
    body = gzip.compress(json.dumps(chat_body("tiny", "Hi")).encode())
    reply = client.post(CHAT, body, headers={"Content-Encoding": "gzip"})
    assert (reply.status, reply.error["code"]) == (415, "unsupported_content_encoding")


# ------------------------------------------------------------------------ request id


def test_a_sane_request_id_comes_back(client: Client) -> None:
    mine = "my-request_1.2-" + "x" * 100
    assert client.get("/health", headers={"X-Request-ID": mine}).headers["x-request-id"] == mine


@pytest.mark.parametrize(
    "insane", ["", "two words", "x" * 129, "<script>", "a,b", "ä".encode().decode("latin-1")]
)
def test_an_insane_request_id_is_replaced(client: Client, insane: str) -> None:
    made = client.get("/health", headers={"X-Request-ID": insane}).headers["x-request-id"]
    assert made != insane
    assert re.fullmatch(r"[0-9a-f]{16}", made)


def test_every_answer_has_an_id_of_its_own(client: Client) -> None:
    replies = [
        client.get("/health"),
        client.get("/nowhere"),
        client.get(CHAT),
        client.post(CHAT, b"no json"),
        client.post(CHAT, chat_body("nobody", "Hi")),
        client.post(CHAT, chat_body("tiny", "Hi")),
        client.get("/pool"),
        client.get("/openapi.json"),
    ]
    ids = [reply.headers["x-request-id"] for reply in replies]
    assert len(set(ids)) == len(ids)


def test_a_stream_carries_the_request_id(client: Client) -> None:
    with client.stream(CHAT, chat_body("tiny", "Hi"), {"X-Request-ID": "s-1"}) as stream:
        assert stream.headers["x-request-id"] == "s-1"
        stream.collect()


# ---------------------------------------------------------------------------- models


def test_models_are_listed_in_openai_s_shape(client: Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    models = {model["id"]: model for model in listed["data"]}
    assert {"tiny", "org/fake-one", "org/fake-two"} <= set(models)
    tiny = models["tiny"]
    assert set(tiny) == {
        "id",
        "object",
        "created",
        "owned_by",
        "context_length",
        "loaded",
        "capabilities",
    }
    assert (tiny["object"], tiny["owned_by"], tiny["context_length"]) == ("model", "mlxk", 8192)
    assert 0 < tiny["created"] <= time.time()
    assert tiny["capabilities"] == {"tools": True, "reasoning": True, "vision": False}
    assert models["org/fake-one"]["owned_by"] == "org"


def test_a_model_is_retrieved_also_with_a_slash_in_its_name(client: Client) -> None:
    assert client.get("/v1/models/tiny").json()["id"] == "tiny"
    assert client.get("/v1/models/org/fake-one").json()["id"] == "org/fake-one"
    assert client.get("/v1/models/org%2Ffake-one").json()["id"] == "org/fake-one"


def test_a_loaded_model_says_that_it_is(client: Client) -> None:
    client.chat("org/fake-two", "Hi")
    assert client.get("/v1/models/org/fake-two").json()["loaded"] is True


def test_an_unknown_model_is_a_404_with_the_nearest_names(client: Client) -> None:
    reply = client.get("/v1/models/tinny")
    assert reply.status == 404
    assert (reply.error["code"], reply.error["param"]) == ("model_not_found", "model")
    assert "tiny" in reply.error["message"]


def test_an_ambiguous_name_is_a_400_with_the_matches(client: Client) -> None:
    reply = client.get("/v1/models/fake")
    assert (reply.status, reply.error["code"]) == (400, "ambiguous_model")
    assert "org/fake-one" in reply.error["message"]
    assert "org/fake-two" in reply.error["message"]


def test_paths_are_no_model_names(client: Client) -> None:
    for path in ("/v1/models/..%2F..%2Fetc%2Fpasswd", "/v1/models/%2Fetc%2Fpasswd", "/v1/models/~root"):
        assert client.get(path).status == 404


# ---------------------------------------------------------------------- unknown names


def unknown(client: Client, name: str) -> Reply:
    return client.post(CHAT, chat_body(name, "Hi"))


def test_a_typo_is_answered_at_once_and_touches_no_worker(client: Client, fake_server: Server) -> None:
    pids, models = set(fake_server.worker_pids()), set(client.pool())
    began = time.monotonic()
    replies = [unknown(client, "tinny"), unknown(client, "nothing/like-it"), unknown(client, "x" * 5000)]
    assert time.monotonic() - began < 2.0
    for reply in replies:
        assert reply.status == 404
        assert (reply.error["code"], reply.error["param"]) == ("model_not_found", "model")
    assert "tiny" in replies[0].error["message"]
    assert len(replies[2].error["message"]) < 1000
    assert set(client.pool()) == models
    # A spare may come meanwhile; nothing may have gone.
    assert pids <= set(fake_server.worker_pids())


def test_an_ambiguous_model_is_a_400(client: Client) -> None:
    reply = unknown(client, "fake")
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "ambiguous_model", "model")


def test_a_name_s_unique_part_is_enough(client: Client) -> None:
    assert client.chat("FAKE-TWO", "Hi")["model"] == "org/fake-two"
