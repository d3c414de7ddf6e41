"""What a web page of another site can make a browser send, over real HTTP: nothing of it comes in."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.api.client import CHAT, Client, chat_body
from tests.server import Server, standing

EVIL = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
PAGE = "http://localhost:3000"
EXTENSION = "chrome-extension://abcdefghijklmnop"


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("listed")
    env = {
        "MLXK_ENGINE": "fake",
        "MLXK_SPARE": "0",
        "MLXK_CORS_ORIGINS": f"{PAGE},{EXTENSION}",
        "MLXK_ALLOWED_HOSTS": "llm.example",
    }
    with standing(Server(home, env=env)) as server:
        yield server


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", CHAT, chat_body("org/fake-one", "Hi")),
        ("POST", "/v1/completions", {"model": "org/fake-one", "prompt": "Hi"}),
        ("POST", "/pool/org/fake-one/load", None),
        ("DELETE", "/pool/org/fake-one", None),
        ("GET", "/v1/models", None),
        ("GET", "/pool/events", None),
        ("OPTIONS", CHAT, None),
    ],
)
def test_a_page_of_another_site_moves_nothing(client: Client, method: str, path: str, body: object) -> None:
    loads = client.get("/pool").json()["models"]
    for origin in (EVIL, {**EVIL, "Origin": "null"}, {"Origin": "http://evil.example"}):
        refused = client.request(method, path, body, headers={**origin, "Content-Type": "text/plain"})
        assert (refused.status, refused.error["code"]) == (403, "origin_not_allowed")
        assert refused.headers["x-request-id"]
    assert [one["name"] for one in client.get("/pool").json()["models"]] == [one["name"] for one in loads]


def test_an_image_of_another_site_moves_nothing(client: Client) -> None:
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert client.get("/pool/events", headers=image).status == 403


def test_a_link_of_another_site_shows_the_page(client: Client) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/docs", headers=link).status == 200


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "application/json"])
def test_curl_without_a_content_type_is_answered(client: Client, kind: str) -> None:
    """`curl -d` calls it a form; the Origin is what tells a web page."""
    assert client.post(CHAT, chat_body("org/fake-one", "Hi"), headers={"Content-Type": kind}).status == 200


def test_a_refusal_comes_before_the_body(client: Client) -> None:
    with socket.create_connection((client.host, client.port or 80), timeout=10) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("origin", [PAGE, EXTENSION])
def test_listed_origins_use_everything(listed: Server, origin: str) -> None:
    client = Client(listed.url, {"Origin": origin})
    answer = client.post(CHAT, chat_body("tiny", "Hi", max_tokens=1))
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)
    asked = {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "authorization"}
    assert client.request("OPTIONS", "/pool/tiny", headers=asked).status == 200
    missing = client.post(CHAT, chat_body("no-such-model", "Hi"))
    assert (missing.status, missing.headers["access-control-allow-origin"]) == (404, origin)


def test_a_name_behind_a_proxy_is_answered_when_listed(listed: Server) -> None:
    client = Client(listed.url)
    assert client.get("/v1/models", headers={"Host": "llm.example"}).status == 200
    own_page = {"Host": "llm.example", "Origin": "https://llm.example"}
    assert client.get("/v1/models", headers=own_page).status == 200
    assert client.get("/v1/models", headers={"Host": "other.example"}).status == 403


# -------------------------------------------------------------------------- methods


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/v1/models", "/v1/models/tiny", "/pool", "/pool/events"]
)
def test_head_answers_like_get(client: Client, path: str) -> None:
    head = client.request("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"].startswith(("application/json", "text/event-stream"))
    assert client.request("HEAD", "/v1/models/none").status == 404


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, {"POST", "OPTIONS"}),
        ("HEAD", CHAT, {"POST", "OPTIONS"}),
        ("PUT", "/v1/models", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/health", {"GET", "HEAD", "OPTIONS"}),
        ("BREW", "/health", None),
    ],
)
def test_other_methods_are_a_405_with_allow(
    client: Client, method: str, path: str, allow: set[str] | None
) -> None:
    answer = client.request(method, path)
    assert answer.status == (405 if allow else 400)
    assert allow is None or set(answer.headers["allow"].split(", ")) == allow


def test_options_says_what_a_path_allows(client: Client) -> None:
    answer = client.request("OPTIONS", CHAT)
    assert (answer.status, answer.headers["allow"], answer.body) == (204, "POST, OPTIONS", b"")
