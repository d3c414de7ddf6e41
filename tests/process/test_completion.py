"""Completion as it is used: real shells, a key pressed, and what the line says then."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import Server, add_fake_model, standing
from tests.terminal import Terminal

TABLES = """
[models."qwen:8b"]
id = "tiny"
[models."qwen:14b"]
id = "tiny"
"""
ARGUMENTS = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--no-config", "-i"]}
PATIENT = """import sys, mlxk.cli.completion as completion
from mlxk.__main__ import main
completion.LOADED_LIMIT_S = 30.0
sys.exit(main())
"""
"""`mlxk` that gives the server more than half a second to say what is loaded: on a busy machine that may be
too little, and then nothing is offered, as it should be."""
BEGIN = {
    "bash": "PS1='ready> '; eval \"$(mlxk completion bash)\"",
    "zsh": "PS1='ready> '; autoload -U compinit && compinit -D -u && eval \"$(mlxk completion zsh)\"",
    "fish": "function fish_prompt; echo 'ready> '; end; mlxk completion fish | source",
}
SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"no {name} here"))
    for name in ARGUMENTS
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("home")
    for name in ("org/some-model", "mlx-community/Other-4bit"):
        add_fake_model(home, name)
    (home / "config.toml").write_text(TABLES)
    (home / "bin").mkdir()
    program = home / "bin" / "mlxk"
    (home / "patient.py").write_text(PATIENT)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{home / "patient.py"}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with standing(Server(home, env={"MLXK_ENGINE": "fake", "MLXK_SPARE": "0"})) as running:
        running.call("load", {"models": ["tiny"]})
        yield running


@pytest.fixture(params=SHELLS)
def shell(server: Server, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    name: str = request.param
    folder = server.home / f"home-of-{name}"
    folder.mkdir(exist_ok=True)
    env = {**server.env, "PATH": f"{server.home / 'bin'}:{os.environ['PATH']}", "HOME": str(folder)}
    program = [str(shutil.which(name)), *ARGUMENTS[name]]
    with Terminal([], env, columns=160, program=program) as terminal:
        terminal.enter(f"cd {folder}; {BEGIN[name]}")
        terminal.wait_text(r"ready> *$")
        yield terminal


def completed(terminal: Terminal, typed: str, expected: str) -> None:
    """The letter behind it shows whether a blank was put there."""
    terminal.type(f"{typed}\tX")
    terminal.wait_for(lambda text: text.rpartition("ready> ")[2].startswith(f"{expected}X"), 20.0)
    terminal.press("u")  # no Ctrl-C: the terminal would throw away with it what is typed next
    terminal.wait_for(lambda text: any(line == "ready>" for line in text.splitlines()[-1:]), 20.0)


def test_verbs_options_and_names_are_completed(shell: Terminal) -> None:
    completed(shell, "mlxk relo", "mlxk reload ")
    completed(shell, "mlxk serve --max-mem", "mlxk serve --max-memory ")
    completed(shell, "mlxk show org/so", "mlxk show org/some-model ")
    completed(shell, "mlxk show qwen:8", "mlxk show qwen:8b ")
    completed(shell, "mlxk load tiny Oth", "mlxk load tiny Other-4bit ")
    completed(shell, "mlxk stop t", "mlxk stop tiny ")
    completed(shell, "mlxk config in", "mlxk config init ")


def test_what_begins_alike_is_completed_as_far_as_it_goes(shell: Terminal) -> None:
    completed(shell, "mlxk show q", "mlxk show qwen:")


def asked(server: Server, *words: str, shell: str = "zsh") -> list[str]:
    """The values that a shell is offered."""
    command = [str(server.home / "bin" / "mlxk"), "completion", shell, "--for", "--", *words]
    answer = subprocess.run(command, env=server.env, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    return [line.split("\t")[1] for line in answer.stdout.splitlines()[1:]]


def test_installed_names_where_a_model_is_read_and_loaded_ones_where_it_runs(server: Server) -> None:
    installed = ["mlx-community/Other-4bit", "org/some-model", "qwen:14b", "qwen:8b", "tiny"]
    for verb in ("run", "show", "health", "rm", "load", "serve", "list"):
        assert asked(server, verb, "") == installed
    for verb in ("stop", "restart", "logs"):
        assert asked(server, verb, "") == ["tiny"]


def test_a_name_that_stands_there_already_is_not_offered_again(server: Server) -> None:
    assert asked(server, "load", "tiny", "t") == []


def test_a_line_of_bash_is_split_as_bash_does(server: Server) -> None:
    assert asked(server, 'mlxk load "org/so', shell="bash") == ["org/some-model"]
    assert asked(server, "mlxk load tiny ", shell="bash")[0] == "mlx-community/Other-4bit"
    assert asked(server, "mlxk config check ", shell="bash") == [""]  # files: the shell knows them


def test_nothing_is_said_where_nothing_fits(server: Server) -> None:
    assert asked(server, "show", "nothing-like-it") == []
    assert asked(server, "nonsense", "") == []


def test_there_is_one_script_at_a_time(server: Server) -> None:
    done = server.cli("completion", "bash", "zsh")
    assert (done.returncode, done.stdout) == (2, "")
    assert "extra argument (zsh)" in done.stderr


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_script_is_right_for_its_shell(server: Server, name: str) -> None:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here")
    script = server.cli("completion", name).stdout
    done = subprocess.run([path, "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
