"""The `mlxk` command against a real, detached server, and without one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.api.client import Client
from tests.e2e.command_line import CommandLine, detached
from tests.server import add_tiny_copy, is_alive


@pytest.fixture(scope="module")
def mlxk(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    home = tmp_path_factory.mktemp("cli")
    for name in ("tiny-one", "tiny-two"):
        add_tiny_copy(home, name)
    return CommandLine(home, "fake")


@pytest.fixture(scope="module")
def server(mlxk: CommandLine) -> Iterator[dict[str, Any]]:
    with detached(mlxk, "tiny") as ready:
        yield ready


@pytest.fixture
def alone(tmp_path: Path) -> CommandLine:
    """Without a server."""
    (tmp_path / "home").mkdir()
    return CommandLine(tmp_path / "home")


# ------------------------------------------------------------------- with a server


@pytest.mark.usefixtures("server")
class TestWithServer:
    def test_it_is_detached_and_answers(self, mlxk: CommandLine, server: dict[str, Any]) -> None:
        assert psutil.Process(server["pid"]).ppid() != os.getpid()
        assert Client(server["url"]).get("/ready").status == 200
        assert (mlxk.home / "logs" / "server.log").is_file()
        assert mlxk.data("ps")["server"]["pid"] == server["pid"]

    def test_a_second_server_is_refused(self, mlxk: CommandLine, server: dict[str, Any]) -> None:
        error = mlxk.failure(1, "serve", "--port", "0")
        assert error["type"] == "already_running"
        assert (error["pid"], error["url"]) == (server["pid"], server["url"])

    def test_load_stop_and_stop_again(self, mlxk: CommandLine) -> None:
        assert "tiny-one: loaded in " in mlxk.ok("load", "tiny-one")
        assert mlxk.ok("load", "tiny-one") == "tiny-one: already loaded\n"
        pid = next(m["pid"] for m in mlxk.data("ps")["models"] if m["name"] == "tiny-one")
        assert "tiny-one" in mlxk.ok("ps")
        assert mlxk.ok("stop", "tiny-one").startswith("stopped tiny-one, freed ")
        assert not is_alive(pid)
        assert mlxk.ok("stop", "tiny-one") == "tiny-one was not running\n"
        assert mlxk.data("stop", "tiny-one")["models"] == [
            {"name": "tiny-one", "stopped": False, "freed_bytes": 0}
        ]

    def test_stop_all_stops_the_models_and_not_the_server(self, mlxk: CommandLine) -> None:
        mlxk.ok("load", "tiny-one", "tiny-two")
        stopped = mlxk.data("stop", "--all")
        assert {"tiny-one", "tiny-two"} <= {m["name"] for m in stopped["models"] if m["stopped"]}
        assert all(m["freed_bytes"] > 0 for m in stopped["models"] if m["stopped"])
        assert mlxk.data("ps")["models"] == []
        assert mlxk.ok("stop", "--all") == "no model is loaded\n"

    def test_restart_gives_a_model_a_fresh_process(self, mlxk: CommandLine, server: dict[str, Any]) -> None:
        mlxk.ok("load", "tiny")
        client = Client(server["url"])
        before = client.pool()["tiny"]["pid"]
        assert re.fullmatch(r"restarted tiny in \d+\.\d s\n", mlxk.ok("restart", "tiny"))
        assert client.pool()["tiny"]["pid"] != before
        assert not is_alive(before)

    def test_list_shows_what_is_installed(self, mlxk: CommandLine) -> None:
        listed = mlxk.data("list")
        assert {model["name"] for model in listed["models"]} == {"tiny", "tiny-one", "tiny-two"}
        assert listed["count"] == 3
        tiny = next(model for model in listed["models"] if model["name"] == "tiny")
        assert (tiny["health"], tiny["runtime_compatible"], tiny["model_type"]) == ("healthy", True, "qwen3")
        assert (tiny["framework"], tiny["context_length"]) == ("MLX", 8192)
        assert {line.split()[0] for line in mlxk.ok("list", "tiny-").splitlines()[1:]} == {
            "tiny-one",
            "tiny-two",
        }

    # ------------------------------------------------------------------------- names

    @pytest.mark.parametrize("verb", [("run", "tinny", "Hi"), ("load", "tinny"), ("stop", "tinny")], ids=repr)
    def test_an_unknown_model_is_exit_4(self, mlxk: CommandLine, verb: tuple[str, ...]) -> None:
        error = mlxk.failure(4, *verb)
        assert error["type"] == "model_not_found"
        assert "tiny" in error["message"]

    def test_an_ambiguous_model_is_exit_4(self, mlxk: CommandLine) -> None:
        error = mlxk.failure(4, "load", "TINY-")
        assert error["type"] == "ambiguous_model"
        assert "tiny-one" in error["message"]

    def test_a_request_s_error_is_told_in_words(self, mlxk: CommandLine) -> None:
        error = mlxk.failure(1, "run", "tiny", "Hi", "--stop", "")
        assert error["type"] == "unsupported_stop_string"


def test_restart_and_stop_of_the_server_itself(tmp_path: Path) -> None:
    mlxk = CommandLine(tmp_path / "home", "fake")
    with detached(mlxk, "--keep-alive", "77m", "tiny") as first:
        old_worker = Client(first["url"]).wait_pool(lambda models: "tiny" in models and models["tiny"]["pid"])
        again = mlxk.data("restart")["server"]
        assert again["pid"] == first["pid"]
        assert not is_alive(old_worker)
        client = Client(again["url"])
        # With the arguments it was started with: the model is loaded again, and stays as long.
        until = client.wait_pool(lambda models: "tiny" in models and models["tiny"]["until"])
        assert 70 * 60 < until <= 77 * 60
        worker = client.pool()["tiny"]["pid"]
        stopped = mlxk.data("stop")
        assert stopped["server"] is True
        assert not is_alive(again["pid"])
        assert not is_alive(worker)
        assert not (mlxk.home / "instance.json").exists()
        assert mlxk.ok("stop") == "no server is running\n"


# ---------------------------------------------------------------- without a server


def test_what_needs_a_server_is_exit_3(alone: CommandLine) -> None:
    for verb in (("ps",), ("load", "tiny"), ("restart", "tiny"), ("restart",)):
        assert alone.failure(3, *verb)["type"] == "server_not_running"


def test_stopping_nothing_is_a_success(alone: CommandLine) -> None:
    assert alone.ok("stop") == "no server is running\n"
    assert alone.ok("stop", "tiny") == "tiny was not running\n"
    assert alone.ok("stop", "--all") == "no model is loaded\n"
    assert alone.data("stop")["server"] is False
    assert alone.failure(4, "stop", "tinny")["type"] == "model_not_found"


def test_an_unknown_model_starts_nothing(alone: CommandLine) -> None:
    assert alone.failure(4, "run", "tinny", "Hi")["type"] == "model_not_found"
    assert alone.failure(4, "serve", "tinny")["type"] == "model_not_found"
    assert not (alone.home / "instance.json").exists()


def test_a_port_that_is_taken_is_told_with_the_log_s_words(alone: CommandLine, tmp_path: Path) -> None:
    with detached(CommandLine(tmp_path / "other", "fake")) as other:
        port = other["url"].rpartition(":")[2]
        error = alone.failure(1, "serve", "--detach", "--port", port)
        assert error["type"] == "start_failed"
        assert f"Port {port}" in error["message"]


def test_wrong_usage_is_exit_2_in_the_envelope(alone: CommandLine) -> None:
    for wrong in (
        ("serve", "--port", "many"),
        ("ps", "--nonsense"),
        ("stop", "--all", "tiny"),
        ("run",),
        ("load",),
    ):
        done = alone.run(*wrong, "--json")
        assert done.returncode == 2, done
        assert json.loads(done.stdout)["error"]["type"] == "usage"
