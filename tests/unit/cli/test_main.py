"""What every verb has in common: help, versions, envelopes, exit codes, a light start."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

import mlxk
from mlxk.cli.errors import CliError, ExitCode
from mlxk.cli.main import VERBS, cli, invoke

HEAVY = """zmq msgspec psutil rich requests urllib3 huggingface_hub fastapi uvicorn pydantic starlette mlx
mlx_lm transformers numpy asyncio"""


def test_importing_the_command_line_loads_nothing_heavy():
    code = f"import sys, mlxk.cli.main; print([name for name in {HEAVY!r}.split() if name in sys.modules])"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_no_verb_loads_anything_heavy_before_it_is_called():
    modules = ", ".join(f"mlxk.cli.{verb}" for verb in VERBS)
    code = f"import sys, {modules}; print([name for name in {HEAVY!r}.split() if name in sys.modules])"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_python_m_mlxk_is_the_command():
    command = [sys.executable, "-P", "-m", "mlxk", "--version"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == (f"mlxk {mlxk.__version__}\n", "")


def test_version_as_json(mlxk_here):
    assert mlxk_here("--version", "--json").data == {"version": mlxk.__version__}


def test_help_shows_every_verb_and_examples(mlxk_here):
    result = mlxk_here("--help")
    assert result.code == ExitCode.OK
    assert all(f"  {verb} " in result.out for verb in VERBS)
    assert "Examples:" in result.out


def test_no_verb_at_all_shows_the_help(mlxk_here):
    assert mlxk_here().out == mlxk_here("--help").out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples_and_takes_json(verb, mlxk_here):
    result = mlxk_here(verb, "--help")
    assert result.code == ExitCode.OK
    assert f"Usage: mlxk {verb} " in result.out
    assert "Examples:" in result.out
    assert "--json" in result.out
    assert "--ready-fd" not in result.out


def test_an_unknown_verb_is_a_usage_error_that_knows_better(mlxk_here):
    result = mlxk_here("srve")
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert "did you mean 'serve'?" in result.err


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("ps", "--json", "--nonsense"), "ps"),
        (("--json", "load"), "load"),
        (("frobnicate", "--json"), None),
        (("--json",), None),
        (("stop", "--json", "--timeout", "soon"), "stop"),
        (("serve", "--port", "70000", "--json"), "serve"),
        (("serve", "--max-memory", "a lot", "--json"), "serve"),
        (("run", "--json", "tiny", "hi", "--max-tokens", "0"), "run"),
    ],
)
def test_a_usage_error_is_an_envelope_with_json(arguments, command, mlxk_here):
    result = mlxk_here(*arguments)
    assert result.code == ExitCode.USAGE
    assert result.error["type"] == "usage"
    assert result.error["message"]
    assert result.envelope["command"] == command
    assert result.err == ""


def test_a_usage_error_for_people_says_where_the_help_is(mlxk_here):
    result = mlxk_here("ps", "--nonsense")
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert "Try 'mlxk ps --help'" in result.err
    assert "--nonsense" in result.err


def test_json_behind_two_dashes_is_a_word_like_any_other(mlxk_here):
    result = mlxk_here("load", "--", "--json")
    assert result.code == ExitCode.NOT_RUNNING
    assert result.out == ""


@pytest.fixture
def failing(monkeypatch):
    """Makes `ps` end in an exception of the test's choice."""

    def fail_with(error: BaseException) -> None:
        @click.command("ps")
        @click.option("--json", is_flag=True)
        def command(json: bool) -> None:
            raise error

        monkeypatch.setattr("mlxk.cli.ps.command", command)

    return fail_with


@pytest.mark.parametrize(
    ("type", "code"),
    [
        ("server_not_running", 3),
        ("model_not_found", 4),
        ("ambiguous_model", 4),
        ("deadline_exceeded", 5),
        ("timed_out", 5),
        ("insufficient_memory", 6),
        ("model_failed", 1),
        ("engine_error", 1),
    ],
)
def test_a_fault_becomes_its_exit_code(type, code, failing, mlxk_here):
    failing(CliError(type, "no such luck", {"hint": "tiny"}))
    result = mlxk_here("ps", "--json")
    assert result.code == code
    assert result.error == {"type": type, "message": "no such luck", "hint": "tiny"}
    assert mlxk_here("ps").err == "error: no such luck\n"


def test_an_interrupt_exits_130(failing, mlxk_here):
    failing(KeyboardInterrupt())
    assert mlxk_here("ps").code == 130
    assert mlxk_here("ps", "--json").error["type"] == "interrupted"


def test_an_interrupt_that_python_has_wrapped_is_one(failing, mlxk_here):
    wrapped = RuntimeError("Error calling __set_name__")
    wrapped.__cause__ = KeyboardInterrupt()
    failing(wrapped)
    result = mlxk_here("ps")
    assert (result.code, result.err) == (130, "")


def test_a_mistake_of_ours_is_shown_on_stderr_and_still_an_envelope(failing, mlxk_here):
    failing(ZeroDivisionError("oops"))
    result = mlxk_here("ps", "--json")
    assert result.code == ExitCode.ERROR
    assert result.error == {"type": "internal_error", "message": "ZeroDivisionError: oops"}
    assert "Traceback" in result.err


def test_a_file_that_cannot_be_read_is_no_traceback(failing, mlxk_here):
    failing(PermissionError(13, "Permission denied", "/etc/secret"))
    result = mlxk_here("ps")
    assert result.code == ExitCode.ERROR
    assert "/etc/secret" in result.err
    assert "Traceback" not in result.err


def test_a_reader_that_left_is_no_error_message(failing, mlxk_here):
    failing(BrokenPipeError())
    result = mlxk_here("ps")
    assert (result.code, result.out, result.err) == (ExitCode.OK, "", "")


def test_a_reader_that_left_a_verb_that_works_may_miss_something(monkeypatch, mlxk_here):
    monkeypatch.setattr("mlxk.cli.stop.command.callback", leaves)
    result = mlxk_here("stop")
    assert (result.code, result.out, result.err) == (ExitCode.ERROR, "", "")


def leaves(**_words: object) -> None:
    raise BrokenPipeError


def test_a_message_cannot_steer_the_terminal(failing, mlxk_here):
    failing(CliError("model_not_found", "no \x1b[2J\x07 model"))
    assert mlxk_here("ps").err == "error: no ?[2J? model\n"


@pytest.mark.parametrize("verb", ["--help", "list", "help", "version"])
def test_a_closed_pipe_is_quiet_and_no_failure(verb, home):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-P", "-m", "mlxk", verb]
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (process.returncode, process.stderr) == (0, b"")


def test_the_group_can_be_used_as_an_ordinary_click_command():
    assert isinstance(cli, click.Group)
    assert invoke(["--version"]) == ExitCode.OK
