"""mlxk is upgraded underneath a running server: what the package folder then holds is another version, and so
are the workers and the clients that are started from now on."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

import mlxk
from tests.process.client import Request
from tests.process.conftest import StartServer
from tests.process.watch import count_spawns
from tests.server import Server, add_fake_model

OLD, NEW = mlxk.__version__, "99.1.0"


class Package:
    """A copy of mlxk from which the servers, workers and clients of this test run."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "mlxk"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(mlxk.__file__).parent, self._root, ignore=ignored)

    def edit(self, name: str, pattern: str, text: str) -> None:
        path = self._root / name
        changed, n = re.subn(pattern, text, path.read_text(encoding="utf-8"))
        assert n == 1, f"{n} places in {name}"
        os.unlink(path)  # as an installer does: who has it open keeps the old one
        path.write_text(changed, encoding="utf-8")

    def upgrade(self) -> None:
        self.edit("__init__.py", f'"{re.escape(OLD)}"', f'"{NEW}"')


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "package"))
    add_fake_model(tmp_path, "a")
    add_fake_model(tmp_path, "b")
    return Package(tmp_path / "package")


def refusal(server: Server, model: str) -> dict[str, object]:
    with Request(server, model) as request:
        error = request.error()
        assert request.status == 503
        assert int(request.response.headers["Retry-After"]) > 0
        return error


def test_a_worker_of_another_version_is_refused_and_the_loaded_model_serves_on(
    package: Package, start: StartServer
) -> None:
    server = start("a", port="0")
    server.wait_for(lambda models: models.get("a", {}).get("state") == "ready")
    package.upgrade()
    message = str(refusal(server, "b")["message"])
    assert f"mlxk {NEW}" in message
    assert OLD in message
    assert "mlxk restart" in message
    with Request(server, "a") as request:
        assert request.text() == "w0 w1 w2 w3"

    # Whoever insists starts no crash loop: a death costs a wait, and five end it.
    spawned = count_spawns(server)
    for _ in range(20):
        assert "mlxk restart" in str(refusal(server, "b")["message"])
        if server.ps()["b"]["state"] == "failed":
            break
    assert server.ps()["b"]["state"] == "failed"
    assert count_spawns(server) - spawned <= 4
    assert "mlxk restart" in server.ps()["b"]["last_error"]

    doctor = server.cli("doctor", "--json")
    assert doctor.returncode == 1
    problems = [one for one in json.loads(doctor.stdout)["data"]["findings"] if one["status"] == "problem"]
    upgraded = next(one for one in problems if one["details"].get("installed") == NEW)
    assert upgraded["details"]["running"] == OLD
    assert upgraded["advice"] == "mlxk restart"
    assert any(one["details"].get("model") == "b" for one in problems)


def test_a_worker_of_another_protocol_is_refused(package: Package, start: StartServer) -> None:
    server = start()
    package.edit("workers/protocol.py", r"(?m)^PROTOCOL = \d+", "PROTOCOL = 4711")
    message = str(refusal(server, "a")["message"])
    assert "protocol 4711" in message
    assert "mlxk restart" in message


def test_the_restart_that_is_advised_brings_the_new_version(package: Package, start: StartServer) -> None:
    server = start()
    package.upgrade()
    refusal(server, "a")
    restarted = server.cli("restart", "--json")
    assert restarted.returncode == 0, restarted
    try:
        data = json.loads(server.cli("ps", "--json").stdout)["data"]
        assert data["server"]["version"] == NEW
        assert server.cli("load", "a").returncode == 0
    finally:
        assert server.cli("stop", "--now").returncode == 0


def test_a_newer_client_and_an_older_server_understand_each_other(
    package: Package, start: StartServer
) -> None:
    server = start()
    package.upgrade()
    assert server.cli("ps").returncode == 0
    package.edit("cli/ps.py", r'call\("ps"', 'call("a verb of the future"')
    done = server.cli("ps", "--json")
    assert done.returncode == 1
    message = json.loads(done.stdout)["error"]["message"]
    assert "a verb of the future" in message
    assert f"The server runs mlxk {OLD}, this is {NEW}: mlxk restart" in message
    assert server.cli("stop").returncode == 0
