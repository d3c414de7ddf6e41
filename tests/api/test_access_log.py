"""One line for each request, in JSON and as text, against a real server."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.client import CHAT, TEXT, Client, chat_body, text_body, wait_until
from tests.server import Server, add_fake_model, standing

SECRET = "the-secret-of-this-test"
FACTS = {"time", "level", "logger", "message", "method", "path", "status", "ms", "request_id"}
GENERATED = {
    "model",
    "worker",
    "generation",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "queue_ms",
}
ENV = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_MAX_BATCH": "1", "MLXK_MAX_MEMORY": "100GB"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("access")
    add_fake_model(home, "org/plain")
    add_fake_model(home, "org/slow", step_s=0.02)
    add_fake_model(home, "org/picky", fail_request="unspeakable")
    add_fake_model(home, "org/dying", step_s=0.02)
    add_fake_model(home, "odd name=x finish=stop")
    with standing(Server(home, ["--log-json"], env=ENV)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server.url)


def lines(server: Server) -> list[dict[str, Any]]:
    """All lines of the access log."""
    # The last may be half written; what `serve` prints for people is no JSON.
    whole = [line for line in server.log().split("\n")[:-1] if line.startswith("{")]
    return [line for line in map(json.loads, whole) if line["logger"] == "mlxk.access"]


def line_of(server: Server, request_id: str) -> dict[str, Any]:
    """The one line of that request: it comes when the answer has ended."""

    def find() -> list[dict[str, Any]]:
        return [line for line in lines(server) if line["request_id"] == request_id]

    (line,) = wait_until(find, show=server.log)
    return line


def ids(request_id: str) -> dict[str, str]:
    return {"X-Request-ID": request_id}


def test_an_answer_has_all_its_facts_as_fields(server: Server, client: Client) -> None:
    body = chat_body("plain", f"{SECRET} in a prompt", max_tokens=6, user=SECRET)
    headers = {**ids("whole-1"), "Authorization": f"Bearer {SECRET}"}
    reply = client.post(f"{CHAT}?query={SECRET}", body, headers=headers)
    usage = reply.json()["usage"]
    line = line_of(server, "whole-1")
    assert set(line) == FACTS | GENERATED | {"ttft_ms", "tokens_per_s", "finish"}
    assert (line["level"], line["message"]) == ("info", f"POST {CHAT} 200")
    assert (line["method"], line["path"], line["status"]) == ("POST", CHAT, 200)
    assert (line["model"], line["finish"]) == ("org/plain", "length")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (usage["prompt_tokens"], 6)
    assert line["cached_tokens"] == 0
    assert line["worker"].startswith("w")
    assert reply.json()["id"] == f"chatcmpl-{line['generation']}"
    assert 0 < line["queue_ms"] <= line["ttft_ms"] <= line["ms"]  # with the load
    assert SECRET not in server.log()


def test_a_stream_several_choices_and_several_prompts(server: Server, client: Client) -> None:
    client.chat("org/plain", "warm", max_tokens=1)
    with client.stream(CHAT, chat_body("org/plain", "warm", max_tokens=4), ids("stream-1")) as stream:
        usage = stream.collect().usage
    assert usage is not None
    line = line_of(server, "stream-1")
    assert (line["status"], line["finish"], line["completion_tokens"]) == (200, "length", 4)
    assert line["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"] > 0

    body = text_body("org/plain", ["one", "and another"], n=2, max_tokens=3)
    usage = client.post(TEXT, body, headers=ids("many-1")).json()["usage"]
    line = line_of(server, "many-1")
    assert line["completion_tokens"] == usage["completion_tokens"] == 12
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert line["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]
    assert line["finish"] == "length"


def test_a_client_that_left_still_has_its_counts(server: Server, client: Client) -> None:
    body = chat_body("org/slow", "a prompt of some length", max_tokens=3000)
    with client.stream(CHAT, body, ids("left-stream")) as stream:
        stream.first_content()
    line = line_of(server, "left-stream")
    assert (line["status"], line["finish"]) == (200, "client_gone")
    assert line["prompt_tokens"] > 1
    assert 1 <= line["completion_tokens"] < 3000
    assert line["worker"].startswith("w")
    assert line["ttft_ms"] > 0

    with client.stream(CHAT, chat_body("org/slow", "holds the place", max_tokens=3000)) as holder:
        holder.first_content()
        # One that leaves while it waits: it has a wait, and no worker.
        with socket.create_connection((client.host, client.port)) as raw:
            sent = json.dumps(chat_body("org/slow", "queued")).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: left-queued\r\n"
            raw.sendall(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
            client.wait_pool(lambda pool: pool["org/slow"]["queued"] == 1)
    line = line_of(server, "left-queued")
    assert (line["status"], line["finish"], line["model"]) == (499, "client_gone", "org/slow")
    assert line["queue_ms"] > 0
    assert not {"worker", "prompt_tokens", "completion_tokens", "ttft_ms"} & set(line)


def test_whole_answers_that_nobody_waits_for(server: Server, client: Client) -> None:
    # The one place may still be taken: by another test's stream, whose abort the worker has not heard of yet.
    client.wait_pool(lambda pool: pool.get("org/slow", {}).get("in_flight", 0) == 0)
    with socket.create_connection((client.host, client.port)) as raw:
        sent = json.dumps(chat_body("org/slow", "a prompt", max_tokens=3000)).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: left-whole\r\n"
        raw.sendall(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
        client.wait_pool(lambda pool: pool.get("org/slow", {}).get("in_flight") == 1)
    line = line_of(server, "left-whole")
    assert (line["status"], line["finish"]) == (499, "client_gone")
    assert line["worker"].startswith("w")


def test_errors_are_told_by_their_code(server: Server, client: Client) -> None:
    cases = {
        "unknown": (chat_body("org/none", "x"), 404, "model_not_found"),
        "invalid": (chat_body("org/plain", "x", temperature=9), 400, "invalid_request"),
        "engine": (chat_body("org/picky", "unspeakable"), 500, "engine_error"),
    }
    for name, (body, status, code) in cases.items():
        assert client.post(CHAT, body, headers=ids(f"error-{name}")).status == status
        line = line_of(server, f"error-{name}")
        assert (line["status"], line["finish"]) == (status, code)
    assert "model" not in line_of(server, "error-unknown")  # what a client wrote is no model
    # By this name the worker's own log knows the request.
    failed = line_of(server, "error-engine")["generation"]
    log = next((server.home / "logs").glob("*picky*.log"))
    wait_until(lambda: f"request {failed} could not start" in log.read_text(encoding="utf-8"))


def test_a_stream_that_dies_is_told_by_its_error(server: Server, client: Client) -> None:
    with client.stream(CHAT, chat_body("org/dying", "x", max_tokens=3000), ids("dies")) as stream:
        stream.first_content()
        os.kill(client.pool()["org/dying"]["pid"], signal.SIGKILL)
        answer = stream.collect()
    assert answer.error is not None
    line = line_of(server, "dies")
    assert (line["status"], line["finish"]) == (200, "worker_died")
    assert line["completion_tokens"] >= 1


def test_probes_are_quiet_and_their_errors_are_not(server: Server, client: Client) -> None:
    for path in ("/health", "/ready", "/metrics"):
        assert client.get(path, headers=ids(f"quiet{path[1:]}")).status == 200
        assert client.post(path, headers=ids(f"loud{path[1:]}")).status == 405
    client.get("/v1/models", headers=ids("last"))
    line_of(server, "last")
    seen = {line["request_id"] for line in lines(server)}
    assert {"loudhealth", "loudready", "loudmetrics"} <= seen
    assert not {"quiethealth", "quietready", "quietmetrics"} & seen


def test_nobody_writes_a_line_of_his_own(server: Server, client: Client) -> None:
    path = "/x%0A%7B%22logger%22:%22mlxk.access%22%7D/%1B[2J?a=b\\n"
    client.get(path, headers=ids("forger"))
    assert line_of(server, "forger")["path"] == path.partition("?")[0]
    odd = client.post(CHAT, chat_body("odd name=x finish=stop", "x", max_tokens=1), headers=ids("odd"))
    assert odd.status == 200
    assert line_of(server, "odd")["model"] == "odd name=x finish=stop"
    for bad in ("a b", "a" * 129, 'a"b', "a,b"):
        given = client.get("/nothing", headers=ids(bad)).headers["x-request-id"]
        assert given != bad
        assert line_of(server, given)["path"] == "/nothing"


def test_every_kind_of_answer_carries_its_request_id(tmp_path: Path) -> None:
    env = {**ENV, "MLXK_API_KEY": "sesame", "MLXK_MAX_BODY": "1000"}
    with standing(Server(tmp_path / "home", env=env)) as server:
        keyed = Client(server.url, {"Authorization": "Bearer sesame", "X-Request-ID": "mine"})
        open_ = Client(server.url, {"X-Request-ID": "mine"})
        answers = {
            200: keyed.get("/v1/models"),
            400: keyed.post(CHAT, b"{"),
            401: open_.get("/v1/models"),
            403: open_.get("/health", headers={"Host": "evil.example"}),
            404: keyed.get("/nothing"),
            405: keyed.request("PUT", "/health"),
            413: keyed.post(CHAT, b" " * 2000),
        }
        for status, answer in answers.items():
            assert (answer.status, answer.headers["x-request-id"]) == (status, "mine")
        with socket.create_connection((keyed.host, keyed.port)) as raw:
            raw.sendall(b"this is no HTTP\r\n\r\n")
            broken = raw.makefile("rb").read().decode().lower()
        assert broken.startswith("http/1.1 400")
        assert "x-request-id: " in broken
        # The log of this one is text.
        wait_until(lambda: f"POST {CHAT} 413" in server.log())
        (line,) = [line for line in server.log().splitlines() if "PUT /health 405" in line]
        assert line.endswith("id=mine")
