"""`llm` (Simon Willison's), unmodified: a client that nobody here wrote. Its command line and its Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.prompts import COUNT_10, COUNTED_10, COUNTED_100, GRASS, SKY, WENT_ON
from tests.leaks import standing_servers
from tests.server import Server

REPOSITORY = Path(__file__).parents[2]
GREEDY = ("-o", "temperature", "0")
CALL_BERLIN = "Call the weather tool for Berlin. Do not answer directly."
ANSWER = "It is 19 degrees and sunny."
WEATHER = '''
def weather(city: str) -> str:
    """Look up weather for a city."""
    return '{"city":"Berlin","temperature_c":19,"condition":"sunny"}'
'''


class Llm:
    """Its command, with a folder of its own that knows our server (docs/api.md shows the file)."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = f"{url}/v1"
        chat = {"api_base": self.url, "supports_schema": True, "supports_tools": True}
        models: list[dict[str, Any]] = [
            {"model_id": "mlxk-tiny", "model_name": "tiny", **chat},
            {"model_id": "mlxk-missing", "model_name": "tinny", **chat},
            {"model_id": "mlxk-text", "model_name": "tiny", "api_base": self.url, "completion": True},
        ]
        # JSON is YAML.
        (folder / "extra-openai-models.yaml").write_text(json.dumps(models), encoding="utf-8")
        # No plugins of the user's, and nothing of theirs is read or written.
        self.env = {**os.environ, "LLM_USER_PATH": str(folder), "LLM_LOAD_PLUGINS": ""}
        # Its embedding models know no other way to us.
        self.env |= {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": "unused"}
        self._commands = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.llm_commands"],
            cwd=REPOSITORY,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._commands.pid

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`llm ARGUMENTS` in the process for all commands; trying to reach another machine is a failure."""
        assert self._commands.stdin is not None
        assert self._commands.stdout is not None
        self._commands.stdin.write(json.dumps(arguments) + "\n")
        self._commands.stdin.flush()
        done = json.loads(self._commands.stdout.readline())
        return subprocess.CompletedProcess(["llm", *arguments], done["code"], done["stdout"], done["stderr"])

    def run_apart(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same in a process of its own."""
        return self.python("tests.e2e.localhost_only", "llm", *arguments)

    def close(self) -> None:
        assert self._commands.stdin is not None
        assert self._commands.stdout is not None
        self._commands.stdin.close()
        try:
            self._commands.wait(30)
        finally:
            self._commands.kill()
            self._commands.wait()
            self._commands.stdout.close()

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=REPOSITORY,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def ask(self, *arguments: str) -> str:
        """What it prints, without the line's end that it adds."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.removesuffix("\n")


@pytest.fixture(scope="module")
def llm(real_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llm]:
    one = Llm(tmp_path_factory.mktemp("llm"), real_server.url)
    standing_servers.add(one.pid)
    yield one
    standing_servers.discard(one.pid)
    one.close()


# ----------------------------------------------------------------------- command line


def test_a_conversation_streamed_and_not(llm: Llm) -> None:
    first = llm.run_apart("-m", "mlxk-tiny", SKY, *GREEDY)
    assert (first.returncode, first.stdout) == (0, "Blue\n"), first.stderr
    assert llm.ask("-c", "--no-stream", GRASS, *GREEDY) == "Green"
    logged = json.loads(llm.ask("logs", "list", "--json", "-n", "0"))
    assert [one["response"] for one in logged] == ["Blue", "Green"]
    assert len({one["conversation_id"] for one in logged}) == 1
    assert all(one["output_tokens"] > 0 for one in logged)


def test_a_tool_of_the_command_line(llm: Llm) -> None:
    system = ("-s", "You are a helpful assistant.")
    done = llm.run("-m", "mlxk-tiny", *system, "--functions", WEATHER, "--td", CALL_BERLIN, *GREEDY)
    assert done.returncode == 0, done.stderr
    assert "weather({'city': 'Berlin'})" in done.stderr
    assert done.stdout.strip() == ANSWER


def test_a_schema_of_the_command_line(llm: Llm) -> None:
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["Blue", "Green"]}, "sure": {"type": "boolean"}},
        "required": ["color", "sure"],
        "additionalProperties": False,
    }
    reply = json.loads(llm.ask("-m", "mlxk-tiny", "--schema", json.dumps(schema), SKY, *GREEDY))
    assert set(reply) == {"color", "sure"}
    assert reply["color"] in ("Blue", "Green")


def test_the_endpoint_without_any_file(llm: Llm) -> None:
    assert llm.ask("openai", "endpoint", llm.url, "-m", "tiny", COUNT_10, *GREEDY) == COUNTED_10


def test_an_unknown_model_is_told_in_our_words(llm: Llm) -> None:
    done = llm.run("-m", "mlxk-missing", "Hi")
    assert done.returncode == 1
    assert "The model 'tinny' is not installed. Did you mean tiny?" in done.stderr
    assert "Traceback" not in done.stderr


# ----------------------------------------------------------------------------- Python


def test_its_python_sync_and_async(llm: Llm) -> None:
    done = llm.python("tests.e2e.llm_script")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    for kind in ("sync", "async"):
        # A long text: of a short one all pieces may come at once where the machine is busy.
        assert "".join(results[kind]["pieces"]) == COUNTED_100
        assert len(results[kind]["pieces"]) > 1
        assert results[kind]["usage"] > len(results[kind]["pieces"]) / 2
        assert results[kind]["tool"] == ANSWER
    assert results["sync"]["conversation"] == ["Blue", "Green"]
    assert results["sync"]["stopped"] == "1  \n2  \n3  \n4  \n5  \n"
    assert results["sync"]["text"] == WENT_ON
    assert results["async"]["many"] == ["Blue"] * 8
    assert "Did you mean tiny?" in results["unknown"]
    assert "There is no POST /v1/embeddings" in results["embeddings"]
    assert results["foreign"] == []
