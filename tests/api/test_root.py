"""GET /: who is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxk import __version__
from tests.api.client import Client
from tests.server import Server, standing

KEY = {"Authorization": "Bearer open-sesame"}
PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_API_KEY": "open-sesame"}
    home: Path = tmp_path_factory.mktemp("locked")
    with standing(Server(home, env=env)) as server:
        yield Client(server.url)


def test_a_program_is_told_name_version_and_where_to_go_on(client: Client) -> None:
    reply = client.get("/")
    assert reply.status == 200
    facts = reply.json()
    assert (facts["name"], facts["status"], facts["version"]) == ("mlxk", "running", __version__)
    for link in ("docs", "openapi", "models", "pool"):
        assert client.get(facts[link]).status == 200


def test_a_browser_gets_a_page_with_links(client: Client) -> None:
    reply = client.get("/", headers=PAGE)
    assert reply.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert b"<a href='/docs'>" in reply.body
    assert b"<a href='/v1/models'>" in reply.body
    assert __version__.encode() in reply.body


def test_head_answers_as_get_does(client: Client) -> None:
    reply = client.request("HEAD", "/")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["content-length"] == str(len(client.get("/").body))


def test_other_methods_are_refused(client: Client) -> None:
    reply = client.post("/", {})
    assert reply.status == 405
    assert "GET" in reply.headers["allow"]


def test_another_host_and_another_site_learn_nothing(client: Client) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        reply = client.get("/", headers=headers)
        assert reply.status == 403
        assert __version__.encode() not in reply.body


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, PAGE])
def test_where_a_key_is_asked_for_who_has_none_learns_only_that(
    locked: Client, headers: dict[str, str]
) -> None:
    reply = locked.get("/", headers=headers)
    assert reply.status == 200
    assert b"Bearer" in reply.body
    for secret in (__version__, "/v1", "/pool", "sesame"):
        assert secret.encode() not in reply.body


def test_who_has_a_key_is_told_all(locked: Client) -> None:
    assert locked.get("/", headers=KEY).json()["version"] == __version__
