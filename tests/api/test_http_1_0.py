"""HTTP/1.0 (ab; nginx as a proxy, unless told otherwise): no chunks, the end of the connection is the end."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.api.client import CHAT, TEXT, Client
from tests.server import Server


def exchange(server: Server, request: bytes) -> tuple[bytes, bytes]:
    """Head (in lower case) and all that follows, until the server closes."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(request)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    return head.lower(), body


def post(path: str, body: dict[str, object], version: str = "1.0", headers: str = "") -> bytes:
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/{version}\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode() + data


@pytest.mark.parametrize("headers", ["", "Connection: keep-alive\r\n", "Host: localhost\r\n"])
def test_a_stream_is_sent_as_it_is_and_ends_with_the_connection(fake_server: Server, headers: str) -> None:
    body = {"model": "fake-one", "prompt": "go", "max_tokens": 3, "stream": True}
    head, answer = exchange(fake_server, post(TEXT, body, headers=headers))
    assert head.startswith(b"http/1.1 200 ")
    assert b"transfer-encoding" not in head
    assert b"content-length" not in head
    assert b"connection: close" in head
    lines = answer.split(b"\n\n")
    assert lines.pop() == b""
    assert lines.pop() == b"data: [DONE]"
    texts = [json.loads(line.removeprefix(b"data: "))["choices"][0]["text"] for line in lines]
    assert "".join(texts) == "w0 w1 w2"


def test_a_whole_answer_has_its_length(fake_server: Server) -> None:
    body = {"model": "fake-one", "messages": [{"role": "user", "content": "go"}], "max_tokens": 2}
    head, answer = exchange(fake_server, post(CHAT, body))
    assert b"content-length: %d" % len(answer) in head
    assert json.loads(answer)["choices"][0]["finish_reason"] == "length"


def test_a_stream_that_fails_says_so_at_its_end(fake_server: Server) -> None:
    body = {"model": "fake-one", "prompt": "go", "stream": True, "temperature": -1}
    head, answer = exchange(fake_server, post(TEXT, body))
    assert head.startswith(b"http/1.1 400 ")
    assert b"content-length: %d" % len(answer) in head


def test_head_has_no_body(fake_server: Server) -> None:
    head, answer = exchange(fake_server, b"HEAD /pool/events HTTP/1.0\r\n\r\n")
    assert head.startswith(b"http/1.1 200 ")
    assert answer == b""


def test_http_1_1_still_gets_chunks(client: Client, fake_server: Server) -> None:
    body = {"model": "fake-one", "prompt": "go", "max_tokens": 3, "stream": True}
    request = post(TEXT, body, "1.1", "Host: localhost\r\nConnection: close\r\n")
    head, answer = exchange(fake_server, request)
    assert b"transfer-encoding: chunked" in head
    assert answer.endswith(b"\r\n0\r\n\r\n")
