"""The `mlxk` command against a real, detached server, and without one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.api.client import Client
from tests.e2e.prompts import COUNT_10, COUNTED_10, END_TOKENS
from tests.leaks import standing_servers
from tests.server import add_tiny_copy, is_alive

SAY = "Say: hi there and hello world!"
SAID = "hi there and hello world!"
STORY = "Tell me a long story."
"""More than a second's worth of tokens."""
TIMEOUT_S = 60


@dataclass(frozen=True)
class CommandLine:
    """`mlxk` with a home of its own."""

    home: Path
    engine: str = "mlx"
    """"fake" where no text matters: it starts in a fraction of the time."""

    @property
    def env(self) -> Mapping[str, str]:
        home = {"MLXK_HOME": str(self.home), "HF_HOME": str(self.home / "hf")}
        return {**os.environ, **home, "MLXK_ENGINE": self.engine}

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "mlxk", *arguments],
            env=self.env,
            stdin=more.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **more,
        )

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
        with self.start(*arguments, stdin=source) as process:
            try:
                out, err = process.communicate(stdin, timeout=TIMEOUT_S)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def ok(self, *arguments: str, stdin: str | None = None) -> str:
        """stdout of a command that must succeed, and say nothing on stderr."""
        done = self.run(*arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def data(self, *arguments: str) -> dict[str, Any]:
        """`data` of the envelope of a command that must succeed."""
        envelope = json.loads(self.ok(*arguments, "--json"))
        assert set(envelope) == {"status", "command", "data", "error"}
        assert (envelope["status"], envelope["command"], envelope["error"]) == ("success", arguments[0], None)
        return dict(envelope["data"])

    def failure(self, code: int, *arguments: str) -> dict[str, Any]:
        """`error` of the envelope of a command that must fail with this exit code, also without --json."""
        plain = self.run(*arguments)
        assert (plain.returncode, plain.stdout) == (code, ""), plain
        assert "error: " in plain.stderr
        assert "Traceback" not in plain.stderr
        done = self.run(*arguments, "--json")
        assert done.returncode == code, done
        envelope = json.loads(done.stdout)
        assert (envelope["status"], envelope["data"]) == ("error", None)
        return dict(envelope["error"])


@contextlib.contextmanager
def detached(mlxk: CommandLine, *arguments: str) -> Iterator[dict[str, Any]]:
    """A server in the background: `{"pid", "url"}`."""
    ready = mlxk.data("serve", "--detach", "--port", "0", *arguments)
    standing_servers.add(ready["pid"])
    try:
        yield ready
    finally:
        done = mlxk.run("stop")
        standing_servers.discard(ready["pid"])
        assert done.returncode == 0, done


@pytest.fixture(scope="module")
def mlxk(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    home = tmp_path_factory.mktemp("cli")
    for name in ("tiny-one", "tiny-two"):
        add_tiny_copy(home, name)
    return CommandLine(home)


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
        assert all(m["freed_bytes"] > 0 for m in stopped["models"])
        assert mlxk.data("ps")["models"] == []
        assert mlxk.ok("stop", "--all") == "no model is loaded\n"

    def test_restart_gives_a_model_a_fresh_process(self, mlxk: CommandLine, server: dict[str, Any]) -> None:
        mlxk.ok("load", "tiny")
        client = Client(server["url"])
        before = client.pool()["tiny"]["pid"]
        assert mlxk.ok("restart", "tiny") == "restarted tiny\n"
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

    # -------------------------------------------------------------------------- run

    def test_run_prints_the_reply(self, mlxk: CommandLine) -> None:
        assert mlxk.ok("run", "tiny", SAY) == f"{SAID}\n"
        assert mlxk.ok("run", "tiny", "--no-stream", COUNT_10) == f"{COUNTED_10}\n"

    def test_run_as_json(self, mlxk: CommandLine) -> None:
        data = mlxk.data("run", "tiny", SAY)
        assert set(data) == {"model", "prompt", "response", "reasoning", "finish_reason", "usage"}
        assert (data["model"], data["prompt"], data["response"]) == ("tiny", SAY, SAID)
        assert (data["reasoning"], data["finish_reason"]) == (None, "stop")
        assert data["usage"]["completion_tokens"] > 3

    def test_run_reads_a_pipe(self, mlxk: CommandLine) -> None:
        assert mlxk.ok("run", "tiny", stdin=f"{SAY}\n") == f"{SAID}\n"
        assert mlxk.ok("run", "tiny", "-", stdin=SAY) == f"{SAID}\n"
        empty = mlxk.run("run", "tiny", stdin="")
        assert (empty.returncode, empty.stdout) == (2, "")

    def test_run_s_options_reach_the_model(self, mlxk: CommandLine) -> None:
        assert mlxk.ok("run", "tiny", SAY, "--stop", "hello") == "hi there and \n"
        assert mlxk.ok("run", "tiny", COUNT_10, "--max-tokens", "1") == "1\n"
        raw = mlxk.ok("run", "tiny", "--no-chat-template", f"{COUNT_10}:\n1\n2\n3\n4\n", "--max-tokens", "3")
        assert raw == "5\n6\n"
        same = {
            mlxk.ok("run", "tiny", "Hello", "--temperature", "1.5", "--seed", "3", "--max-tokens", "8")
            for _ in range(2)
        }
        assert len(same) == 1

    def test_run_shows_or_hides_the_thoughts(self, mlxk: CommandLine) -> None:
        question = "Think: what is 2 + 3?"
        thoughts = "I add 3 to 2. That makes 5."
        assert mlxk.ok("run", "tiny", question) == f"**[Reasoning]**\n{thoughts}\n\n**[Answer]**\n2 + 3 = 5\n"
        assert mlxk.ok("run", "tiny", question, "--hide-reasoning") == "2 + 3 = 5\n"
        assert mlxk.data("run", "tiny", question)["reasoning"] == thoughts

    def test_run_interrupted_is_130_and_the_request_ends(
        self, mlxk: CommandLine, server: dict[str, Any]
    ) -> None:
        interrupt_run(mlxk)
        client = Client(server["url"])
        client.wait_pool(lambda models: models["tiny"]["in_flight"] == 0, timeout_s=5)

    def test_a_reader_that_leaves_is_no_trouble(self, mlxk: CommandLine, server: dict[str, Any]) -> None:
        with mlxk.start("run", "tiny", STORY) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(1)
            process.stdout.close()
            assert process.stderr.read() == ""
            assert process.wait(TIMEOUT_S) == 1
        client = Client(server["url"])
        client.wait_pool(lambda models: models["tiny"]["in_flight"] == 0, timeout_s=5)

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


def interrupt_run(mlxk: CommandLine) -> None:
    """A Ctrl-C while a reply streams. Only the command gets it, as at a terminal the server would not."""
    with mlxk.start("run", "tiny", STORY) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(TIMEOUT_S) == 130
        assert (first + rest).endswith("\n")
        assert process.stderr.read() == ""


def test_restart_and_stop_of_the_server_itself(tmp_path: Path) -> None:
    mlxk = CommandLine(tmp_path / "home", "fake")
    with detached(mlxk, "--keep-alive", "77m", "tiny") as first:
        before = mlxk.data("restart")["server"]
        standing_servers.add(before["pid"])
        try:
            assert before["pid"] != first["pid"]
            assert not is_alive(first["pid"])
            client = Client(before["url"])
            # With the arguments it was started with: the model is loaded again, and stays as long.
            until = client.wait_pool(lambda models: "tiny" in models and models["tiny"]["until"])
            assert 70 * 60 < until <= 77 * 60
            worker = client.pool()["tiny"]["pid"]
            stopped = mlxk.data("stop")
            assert stopped["server"] is True
            assert not is_alive(before["pid"])
            assert not is_alive(worker)
            assert not (mlxk.home / "instance.json").exists()
            assert mlxk.ok("stop") == "no server is running\n"
        finally:
            standing_servers.discard(before["pid"])


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


def test_run_without_a_server_leaves_nothing_behind(alone: CommandLine) -> None:
    """The leak check sees processes and sockets; the home must show no sign of a server."""
    assert alone.ok("run", "tiny", SAY) == f"{SAID}\n"
    assert not (alone.home / "instance.json").exists()
    assert alone.failure(3, "ps")


def test_run_without_a_server_interrupted(alone: CommandLine) -> None:
    interrupt_run(alone)


def test_a_killed_run_takes_its_private_pool_with_it(alone: CommandLine) -> None:
    with alone.start("run", "tiny", STORY) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.kill()
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL


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


def test_the_end_tokens_are_those_of_the_model() -> None:
    """`prompts.END_TOKENS` keeps streams from ending: it must be what the model ends with."""
    from mlxk.store.builtin import builtin_path

    config = json.loads((builtin_path() / "config.json").read_text(encoding="utf-8"))
    assert sorted(config["eos_token_id"]) == sorted(END_TOKENS)
