"""`mlxk run`: on a running server, and with a pool of its own that ends with it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.client import Client
from tests.e2e.command_line import TIMEOUT_S, CommandLine, detached
from tests.e2e.prompts import COUNT_10, COUNTED_10, END_TOKENS

SAY = "Say: hi there and hello world!"
SAID = "hi there and hello world!"
STORY = "Tell me a long story."
"""More than a second's worth of tokens."""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """With a server that has a real model, and needs no other."""
    mlxk = CommandLine(tmp_path_factory.mktemp("real-cli"))
    (mlxk.home / "config.toml").write_text("[server]\nspare = false\n")
    with detached(mlxk, "tiny"):
        yield mlxk


@pytest.fixture
def alone(tmp_path: Path) -> CommandLine:
    """Without a server."""
    (tmp_path / "home").mkdir()
    return CommandLine(tmp_path / "home")


class TestRun:
    """On the running server, with a real model."""

    def test_run_prints_the_reply(self, real: CommandLine) -> None:
        assert real.ok("run", "tiny", SAY) == f"{SAID}\n"
        assert real.ok("run", "tiny", "--no-stream", COUNT_10) == f"{COUNTED_10}\n"

    def test_run_as_json(self, real: CommandLine) -> None:
        data = real.data("run", "tiny", SAY)
        assert set(data) == {"model", "prompt", "response", "reasoning", "finish_reason", "usage"}
        assert (data["model"], data["prompt"], data["response"]) == ("tiny", SAY, SAID)
        assert (data["reasoning"], data["finish_reason"]) == (None, "stop")
        assert data["usage"]["completion_tokens"] > 3

    def test_run_reads_a_pipe(self, real: CommandLine) -> None:
        assert real.ok("run", "tiny", stdin=f"{SAY}\n") == f"{SAID}\n"
        assert real.ok("run", "tiny", "-", stdin=SAY) == f"{SAID}\n"
        empty = real.run("run", "tiny", stdin="")
        assert (empty.returncode, empty.stdout) == (2, "")

    def test_run_s_options_reach_the_model(self, real: CommandLine) -> None:
        assert real.ok("run", "tiny", SAY, "--stop", "hello") == "hi there and \n"
        assert real.ok("run", "tiny", COUNT_10, "--max-tokens", "1") == "1\n"
        raw = real.ok("run", "tiny", "--no-chat-template", f"{COUNT_10}:\n1\n2\n3\n4\n", "--max-tokens", "3")
        assert raw == "5\n6\n"
        same = {
            real.ok("run", "tiny", "Hello", "--temperature", "1.5", "--seed", "3", "--max-tokens", "8")
            for _ in range(2)
        }
        assert len(same) == 1

    def test_run_shows_or_hides_the_thoughts(self, real: CommandLine) -> None:
        question = "Think: what is 2 + 3?"
        thoughts = "I add 3 to 2. That makes 5."
        assert real.ok("run", "tiny", question) == f"**[Reasoning]**\n{thoughts}\n\n**[Answer]**\n2 + 3 = 5\n"
        assert real.ok("run", "tiny", question, "--hide-reasoning") == "2 + 3 = 5\n"
        assert real.data("run", "tiny", question)["reasoning"] == thoughts

    def test_run_interrupted_is_130_and_the_request_ends(self, real: CommandLine) -> None:
        interrupt_run(real)
        client = Client(real.data("ps")["server"]["url"])
        client.wait_pool(lambda models: models["tiny"]["in_flight"] == 0, timeout_s=5)

    def test_a_reader_that_leaves_is_no_trouble(self, real: CommandLine) -> None:
        with real.start("run", "tiny", STORY) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(1)
            process.stdout.close()
            assert process.stderr.read() == ""
            assert process.wait(TIMEOUT_S) == 1
        client = Client(real.data("ps")["server"]["url"])
        client.wait_pool(lambda models: models["tiny"]["in_flight"] == 0, timeout_s=5)


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


def test_the_end_tokens_are_those_of_the_model() -> None:
    """`prompts.END_TOKENS` keeps streams from ending: it must be what the model ends with."""
    from mlxk.store.builtin import builtin_path

    config = json.loads((builtin_path() / "config.json").read_text(encoding="utf-8"))
    assert sorted(config["eos_token_id"]) == sorted(END_TOKENS)
