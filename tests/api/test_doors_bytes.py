"""HTTP itself, as bytes: odd targets, sizes, pipelining, `Expect`, trailers, upgrades."""

from __future__ import annotations

import json
import socket

import pytest

from tests.api.client import CHAT, TEXT, Client, text_body
from tests.server import Server

BODY = json.dumps(text_body("org/fake-one", "go", max_tokens=3)).encode()
HOST = b"Host: localhost\r\n"


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def exchange(server: Server, *sent: bytes) -> bytes:
    """What comes back until the server closes."""
    with connect(server) as connection:
        for piece in sent:
            connection.sendall(piece)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


CLOSE = b"Connection: close\r\n"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET http://localhost/health HTTP/1.1\r\nHost: evil.example\r\n", 200),
        (b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n", 403),
        (b"GET http://localhost@evil.example/health HTTP/1.1\r\nHost: localhost\r\n", 403),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", 403),
        (b"GET /health HTTP/1.1\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost.:80\r\n", 200),
        (b"GET /health HTTP/1.1\r\nHost: [::1]:80\r\n", 200),
        (b"GET /health HTTP/1.1\r\nHost: [::1].evil.example\r\n", 403),
        (b"GET //health HTTP/1.1\r\nHost: localhost\r\n", 404),
        (b"GET /health/ HTTP/1.1\r\nHost: localhost\r\n", 404),
        (b"GET /health?key=1#x HTTP/1.1\r\nHost: localhost\r\n", 200),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n", 404),
        (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n", 400),
    ],
    ids=repr,
)
def test_the_name_that_a_request_is_for(fake_server: Server, head: bytes, expected: int) -> None:
    assert status(exchange(fake_server, head + CLOSE + b"\r\n")) == expected


def test_what_is_no_http_gets_our_envelope_and_an_id(fake_server: Server) -> None:
    head, _, body = exchange(fake_server, b"GARBAGE\r\n\r\n").partition(b"\r\n\r\n")
    assert status(head) == 400
    assert b"x-request-id: " in head
    assert json.loads(body)["error"]["code"] == "invalid_http"


@pytest.mark.parametrize(
    "head",
    [
        b"X-Long: " + b"x" * 70_000 + b"\r\n\r\n",
        b"X-Endless: " + b"x" * 70_000,
        b"".join(b"X-%d: 1\r\n" % number for number in range(8000)),
        b"X-Many: 1\r\n" * 20_000 + b"\r\n",
    ],
    ids=["one long", "one without end", "many without end", "many"],
)
def test_a_head_that_is_too_large_is_a_431(fake_server: Server, head: bytes) -> None:
    answer = exchange(fake_server, b"GET /health HTTP/1.1\r\n" + HOST + head)
    assert status(answer) == 431
    assert b"headers_too_large" in answer
    long_target = b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    assert status(exchange(fake_server, long_target)) == 431


def test_headers_of_a_reasonable_size_pass(fake_server: Server) -> None:
    head = b"GET /health HTTP/1.1\r\n" + HOST + CLOSE + b"Cookie: " + b"x" * 30_000 + b"\r\n\r\n"
    assert status(exchange(fake_server, head)) == 200
    assert status(exchange(fake_server, head[:20_000], head[20_000:])) == 200


def test_pipelined_requests_are_answered_in_order(fake_server: Server) -> None:
    gets = b"".join(b"GET /v1/models/%s HTTP/1.1\r\n" % name + HOST + b"\r\n" for name in (b"tiny", b"none"))
    last = b"GET /health HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"
    answer = exchange(fake_server, gets + last)
    assert [status(b"HTTP/1.1" + one) for one in answer.split(b"HTTP/1.1")[1:]] == [200, 404, 200]


def test_a_flood_of_pipelined_requests_is_cut_off(fake_server: Server, client: Client) -> None:
    one = b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n"
    answer = exchange(fake_server, one * 2000)
    assert answer.count(b"HTTP/1.1 ") < 2000
    assert client.get("/health").status == 200


def test_who_hangs_up_behind_a_pipelined_request_frees_the_slot(fake_server: Server) -> None:
    """uvicorn tells only the last request of a connection that its client has gone."""
    body = json.dumps(text_body("org/fake-two", "go", max_tokens=10**6, stream=True)).encode()
    post = b"POST %s HTTP/1.1\r\n" % TEXT.encode() + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with connect(fake_server) as connection:
        connection.sendall(post + b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        fake_server.wait_for(lambda models: models.get("org/fake-two", {}).get("in_flight") == 1)
    fake_server.wait_for(lambda models: models["org/fake-two"]["in_flight"] == 0)


def test_expect_continue(fake_server: Server) -> None:
    expecting = b"POST %s HTTP/1.1\r\n" % TEXT.encode() + HOST + b"Expect: 100-continue\r\n"
    with connect(fake_server) as connection:
        connection.sendall(expecting + b"Content-Length: %d\r\n\r\n" % len(BODY))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert status(connection.recv(1000)) == 200
    # Refused: no 100, and the connection ends, since nobody knows whether the body will come.
    refused = exchange(fake_server, expecting + b"Content-Length: 999999999999\r\n\r\n")
    assert status(refused) == 413
    assert b"connection: close" in refused


def test_trailers_are_no_headers(fake_server: Server) -> None:
    chunked = b"POST %s HTTP/1.1\r\n" % TEXT.encode() + HOST + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
    body = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
    answer = exchange(
        fake_server, chunked + body + b"Host: evil.example\r\nOrigin: http://evil.example\r\n\r\n"
    )
    assert status(answer) == 200


def test_endless_trailers_and_chunk_extensions_are_cut_off(fake_server: Server) -> None:
    chunked = b"POST %s HTTP/1.1\r\n" % TEXT.encode() + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    for flood in (b"0\r\nX-Endless: " + b"x" * 300_000, b"1;" + b"x" * 300_000):
        assert status(exchange(fake_server, chunked, flood)) == 400


def test_an_upgrade_is_answered_in_http_1(fake_server: Server) -> None:
    """`curl --http2` asks so. Its connection is not used again: nobody knows what comes next."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    assert status(exchange(fake_server, b"GET /health HTTP/1.1\r\n" + HOST + upgrade + b"\r\n")) == 200
    post = b"POST %s HTTP/1.1\r\n" % TEXT.encode() + HOST + upgrade
    answer = exchange(fake_server, post + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
    assert status(answer) == 200
    assert b"w0 w1 w2" in answer


def test_a_413_with_the_whole_body_leaves_the_connection_usable(fake_server: Server) -> None:
    size = 33 * 1024 * 1024
    with connect(fake_server) as connection:
        head = b"POST %s HTTP/1.1\r\n" % CHAT.encode() + HOST + b"Content-Length: %d\r\n\r\n" % size
        connection.sendall(head)
        connection.sendall(b"x" * size)
        assert status(connection.recv(1000)) == 413
        connection.sendall(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        assert status(connection.recv(1000)) == 200
