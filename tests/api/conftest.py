"""One server with the fake engine for the tests that do no harm to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.client import Client
from tests.server import Server, add_fake_model, standing

FAKE = {"MLXK_ENGINE": "fake"}


@pytest.fixture(scope="package")
def fake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("fake")
    add_fake_model(home, "org/fake-one")
    add_fake_model(home, "org/fake-two")
    add_fake_model(home, "org/fussy", prepare_s=0.3, fail_request="refuse me")
    with standing(Server(home, env=FAKE)) as server:
        yield server


@pytest.fixture
def client(fake_server: Server) -> Client:
    return Client(fake_server.url)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """For a server of the test's own."""
    return tmp_path / "home"
