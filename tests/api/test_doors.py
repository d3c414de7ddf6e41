"""Who may come in: Host header, bearer keys, CORS, size of the body."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.api.client import CHAT, Client, chat_body
from tests.server import Server, standing

KEY, OTHER_KEY, ENV_KEY = "file-key-1", "file-key-2", "env-key"
ORIGIN = "http://localhost:3000"
MAX_BODY = 10_000


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With keys, one origin and a small limit for bodies."""
    home = tmp_path_factory.mktemp("guarded")
    keys = home / "keys"
    keys.write_text(f"# two keys\n{KEY}\n\n{OTHER_KEY}\n", encoding="utf-8")
    env = {
        "MLXK_ENGINE": "fake",
        "MLXK_API_KEY_FILE": str(keys),
        "MLXK_API_KEY": ENV_KEY,
        "MLXK_CORS_ORIGINS": ORIGIN,
        "MLXK_MAX_BODY": str(MAX_BODY),
    }
    with standing(Server(home, env=env)) as server:
        yield server


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# ------------------------------------------------------------------------------ keys


@pytest.mark.parametrize("key", [KEY, OTHER_KEY, ENV_KEY])
def test_each_key_opens(guarded: Server, key: str) -> None:
    assert Client(guarded.url, bearer(key)).get("/v1/models").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer(""),
        bearer(KEY + "x"),
        bearer(KEY[:-1]),
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer"},
    ],
    ids=repr,
)
def test_without_a_key_there_is_a_401(guarded: Server, headers: dict[str, str]) -> None:
    client = Client(guarded.url, headers)
    for reply in (
        client.get("/v1/models"),
        client.get("/pool"),
        client.post(CHAT, chat_body("tiny", "Hi")),
        client.request("DELETE", "/pool/tiny"),
        client.get("/nowhere"),
    ):
        assert reply.status == 401
        assert reply.error["code"] == "invalid_api_key"
        assert reply.headers["www-authenticate"] == "Bearer"
        assert KEY not in reply.body.decode()


def test_health_and_ready_need_no_key(guarded: Server) -> None:
    client = Client(guarded.url)
    assert client.get("/health").status == 200
    assert client.get("/ready").status == 200


def test_a_key_is_never_logged(guarded: Server) -> None:
    Client(guarded.url, bearer(KEY)).chat("tiny", "Hi", max_tokens=1)
    Client(guarded.url, bearer("a-wrong-key")).get("/pool")
    assert KEY not in guarded.log()
    assert "a-wrong-key" not in guarded.log()


def test_the_command_line_needs_no_key_for_the_control_socket(guarded: Server) -> None:
    assert guarded.cli("ps").returncode == 0


def test_an_open_address_without_a_key_is_refused_at_start(home: Path) -> None:
    with pytest.raises(AssertionError, match="--no-auth"):
        Server(home, ["--host", "0.0.0.0"], env={"MLXK_ENGINE": "fake"})


# ------------------------------------------------------------------------------ host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:80", "LOCALHOST:8000", "app.localhost"])
def test_local_names_are_answered(client: Client, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", ""]
)
def test_a_rebound_name_is_refused(client: Client, host: str) -> None:
    reply = client.get("/v1/models", headers={"Host": host})
    assert reply.status == 403
    assert (reply.error["code"], reply.error["param"]) == ("host_not_allowed", "Host")


# ------------------------------------------------------------------------------ CORS


def test_cors_is_off_by_default(client: Client) -> None:
    reply = client.get("/health", headers={"Origin": f"http://{client.host}:{client.port}"})
    assert reply.status == 200
    assert not [name for name in reply.headers if name.startswith("access-control")]
    preflight = client.request(
        "OPTIONS", CHAT, headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status == 403
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_a_listed_origin_may_ask(guarded: Server) -> None:
    client = Client(guarded.url)
    asking = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    preflight = client.request("OPTIONS", CHAT, headers=asking)
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    reply = client.get("/v1/models", headers={"Origin": ORIGIN, **bearer(KEY)})
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Request-ID" in reply.headers["access-control-expose-headers"]
    refused = client.get("/v1/models", headers={"Origin": ORIGIN})
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN


def test_another_origin_may_not(guarded: Server) -> None:
    reply = Client(guarded.url, bearer(KEY)).get("/v1/models", headers={"Origin": "http://evil.example"})
    assert (reply.status, reply.error["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in reply.headers


# ------------------------------------------------------------------------------ body


def test_a_body_over_the_limit_is_a_413(guarded: Server) -> None:
    client = Client(guarded.url, bearer(KEY))
    large = chat_body("tiny", "x" * MAX_BODY)
    reply = client.post(CHAT, large)
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")
    assert client.chat("tiny", "x" * (MAX_BODY // 2), max_tokens=1)["choices"]


def test_a_length_alone_is_refused_before_the_body_is_sent(guarded: Server) -> None:
    host, port = guarded.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}Content-Length: 999999999999\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_over_the_limit_is_a_413(guarded: Server) -> None:
    connection = HTTPConnection(*guarded.url.removeprefix("http://").split(":"), timeout=10)
    try:
        chunks = iter([b"x" * 1000] * 20)
        connection.request("POST", CHAT, chunks, bearer(KEY), encode_chunked=True)
        assert connection.getresponse().status == 413
    finally:
        connection.close()


def test_a_413_leaves_the_connection_usable(guarded: Server) -> None:
    connection = HTTPConnection(*guarded.url.removeprefix("http://").split(":"), timeout=10)
    try:
        connection.request("POST", CHAT, b"x" * (MAX_BODY + 1), bearer(KEY))
        refused = connection.getresponse()
        refused.read()
        assert refused.status == 413
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
    finally:
        connection.close()


# ------------------------------------------------------------------------------ bytes

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"


def exchange(server: Server, sent: bytes) -> bytes:
    """What comes back until the server closes, or nothing more comes."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        HEAD + b"Content-Length: abc\r\n\r\n{}",
        HEAD + b"Content-Length: -1\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n",
        HEAD + b"X-Long: " + b"x" * 200_000 + b"\r\n\r\n",
        HEAD + b"Content-Length: 1000\r\n\r\n{",
        HEAD + b"Content-Type: text/plain; charset=\xff\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /v1/models/%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[:60]),
)
def test_strange_bytes_are_no_5xx_and_no_hang(client: Client, fake_server: Server, sent: bytes) -> None:
    received = exchange(fake_server, sent)
    # A request that was never whole may be answered by nothing but the end of the connection.
    assert received == b"" or received.startswith(b"HTTP/1.1 4"), received[:100]
    assert client.get("/health").status == 200


def test_http_1_0_without_a_host_is_answered(fake_server: Server) -> None:
    assert exchange(fake_server, b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
