"""Servers for tests that end them: closed afterwards, if the test has not done it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.process.watch import run_dir
from tests.server import Server

StartServer = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path, clean_environment: None) -> Iterator[StartServer]:
    """Starts a server with the fake engine and without a spare; settings as keywords: `stop_grace="1s"`."""
    servers: list[Server] = []

    def start_server(*arguments: str, **settings: str) -> Server:
        defaults = {"engine": "fake", "spare": "0"}
        env = {f"MLXK_{name.upper()}": value for name, value in {**defaults, **settings}.items()}
        server = Server(tmp_path, arguments, env)
        servers.append(server)
        return server

    yield start_server
    for server in servers:
        server.close()
        assert not run_dir(server).exists(), "the sockets' directory is still there"
