from __future__ import annotations

from typing import Any

import pytest

from mlxk.api.origins import CorsDoor, OriginDoor, is_same_origin
from mlxk.api.rules import DoorRules
from mlxk.config.parsers import parse_origins
from mlxk.config.settings import Settings
from tests.unit.api.asgi import ask, welcome

HOST = ("Host", "127.0.0.1:8000")


def rules(origins: Any = ()) -> DoorRules:
    return DoorRules(Settings(cors_origins=parse_origins(origins)))


def status(origin: str, listed: Any = (), *more: tuple[str, str], method: str = "POST") -> int:
    app = OriginDoor(welcome, rules(listed))
    return ask(app, method=method, headers=[HOST, ("Origin", origin), *more]).status


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://LOCALHOST:8000", "localhost:8000"),
        ("http://localhost", "localhost"),
        ("http://localhost", "localhost:80"),
        ("https://llm.example", "llm.example"),
        ("https://llm.example", "llm.example:443"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_our_own_pages(origin: str, host: str) -> None:
    assert is_same_origin(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:3000", "127.0.0.1:8000"),
        ("http://localhost:8000", "127.0.0.1:8000"),
        ("http://127.0.0.1:8000.evil.example", "127.0.0.1:8000"),
        ("null", "null"),
        ("null", "127.0.0.1:8000"),
        ("", ""),
        ("http://", ""),
        ("http://:80", ":80"),
        ("file://", ""),
        ("chrome-extension://127.0.0.1:8000", "127.0.0.1:8000"),
    ],
)
def test_pages_of_others(origin: str, host: str) -> None:
    assert not is_same_origin(origin, host)


@pytest.mark.parametrize("method", ["POST", "DELETE", "GET", "OPTIONS", "HEAD"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://evil.example", "null", "http://127.0.0.1:3000", "", "file://"]
)
def test_another_origin_is_refused_before_its_body_is_read(origin: str, method: str) -> None:
    async def read_nothing(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("came in")

    door = OriginDoor(read_nothing, rules())
    refused = ask(
        door, method=method, headers=[HOST, ("Origin", origin)], body=()
    )  # a body would be waited for
    assert (refused.status, refused.error["code"]) == (403, "origin_not_allowed")
    assert "cors_origins" in refused.error["message"]


def test_programs_and_our_own_pages_come_in() -> None:
    app = OriginDoor(welcome, rules())
    assert ask(app, method="POST", headers=[HOST]).status == 200
    assert status("http://127.0.0.1:8000") == 200
    # A proxy has changed the Host; the browser says what it knows.
    assert status("https://llm.example", (), ("Sec-Fetch-Site", "same-origin")) == 200
    assert ask(app, headers=[HOST, ("Sec-Fetch-Site", "none")]).status == 200
    assert ask(app, headers=[HOST, ("Sec-Fetch-Site", "same-origin")]).status == 200


def test_two_origins_are_none() -> None:
    own = ("Origin", "http://127.0.0.1:8000")
    assert ask(OriginDoor(welcome, rules()), headers=[HOST, own, own]).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("method", "mode", "dest", "expected"),
    [
        ("GET", "no-cors", "image", 403),
        ("GET", "no-cors", "script", 403),
        ("GET", "cors", "empty", 403),
        ("GET", "navigate", "iframe", 403),
        ("POST", "navigate", "document", 403),
        ("GET", "navigate", "document", 200),
        ("HEAD", "navigate", "document", 200),
    ],
)
def test_what_a_page_fetches_without_an_origin(
    site: str, method: str, mode: str, dest: str, expected: int
) -> None:
    sent = [HOST, ("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", dest)]
    assert ask(OriginDoor(welcome, rules()), method=method, headers=sent).status == expected
    assert ask(OriginDoor(welcome, rules("*")), method=method, headers=sent).status == 200


@pytest.mark.parametrize(
    ("listed", "origin"),
    [
        ("http://localhost:3000", "http://localhost:3000"),
        ("HTTP://LocalHost:3000/", "http://localhost:3000"),
        ("http://localhost:*", "http://localhost:5173"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("moz-extension://*", "moz-extension://0a1b-2c3d"),
        ("tauri://localhost", "tauri://localhost"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("*", "https://any.example"),
        ("*", "null"),
    ],
)
def test_listed_origins_come_in(listed: str, origin: str) -> None:
    assert status(origin, listed) == 200


@pytest.mark.parametrize(
    ("listed", "origin"),
    [
        ("http://localhost:3000", "http://localhost:3001"),
        ("http://localhost:3000", "https://localhost:3000"),
        ("http://localhost:3000", "http://localhost:3000.evil.example"),
        ("http://localhost:*", "http://localhost:1.evil.example"),
        ("http://localhost:*", "http://localhost.evil.example:1"),
        ("http://a.example", "http://axexample"),
        ("moz-extension://*", "http://evil.example"),
        ("moz-extension://*", "null"),
    ],
)
def test_others_do_not(listed: str, origin: str) -> None:
    assert status(origin, listed) == 403


@pytest.mark.parametrize(
    "value", ["null", "localhost:3000", "http://", "http://*", "https://*", "http://a/b", "*.a"]
)
def test_what_is_no_origin_is_refused_as_a_setting(value: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        parse_origins(value)


# ---------------------------------------------------------------------------- CORS

PAGE = "http://localhost:3000"
PREFLIGHT = [
    HOST,
    ("Origin", PAGE),
    ("Access-Control-Request-Method", "POST"),
    ("Access-Control-Request-Headers", "authorization,content-type"),
    ("Access-Control-Request-Private-Network", "true"),
]


def test_a_preflight_of_a_listed_origin_is_answered() -> None:
    answer = ask(CorsDoor(welcome, rules(PAGE)), method="OPTIONS", headers=PREFLIGHT)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert "Origin" in answer.headers["vary"]


def test_answers_vary_by_origin_and_expose_the_request_id() -> None:
    app = CorsDoor(welcome, rules(PAGE))
    answer = ask(app, headers=[HOST, ("Origin", PAGE)])
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    assert answer.headers["vary"] == "Origin"
    assert ask(app, headers=[HOST]).headers["vary"] == "Origin"
    assert (
        ask(CorsDoor(welcome, rules("*")), headers=[HOST, ("Origin", "http://x")]).headers[
            "access-control-allow-origin"
        ]
        == "*"
    )


def test_without_origins_there_is_no_cors() -> None:
    answer = ask(CorsDoor(welcome, rules()), headers=[HOST, ("Origin", PAGE)])
    assert not [name for name in answer.headers if name.startswith("access-control") or name == "vary"]


def test_a_reload_changes_the_origins() -> None:
    doors = rules()
    app = OriginDoor(CorsDoor(welcome, doors), doors)
    sent = [HOST, ("Origin", PAGE)]
    assert ask(app, headers=sent).status == 403
    doors.take_up(Settings(cors_origins=(PAGE,)))
    assert ask(app, headers=sent).headers["access-control-allow-origin"] == PAGE
    doors.take_up(Settings())
    assert ask(app, headers=sent).status == 403
