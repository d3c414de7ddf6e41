"""Help pages: their examples are commands that work as words, and the document that is made of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mlxk.cli.completion import _NAMES
from mlxk.cli.errors import ExitCode
from mlxk.cli.main import EXPERIMENTS, SUBVERBS, VERBS, cli
from tools.cli_pages import DOCUMENT, document, pages

SHELL_WORDS = re.compile(r"^(?:[A-Z_]+=\S+ )+|\s{2,}.*$|(?<!\\)(?:\s[|>;]|&&|2>).*$")
"""What is not the command's: variables before it, a remark behind it, and what a shell does with it."""


@pytest.fixture(autouse=True)
def with_experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in EXPERIMENTS.values():
        monkeypatch.setenv(variable, "1")


def commands() -> Iterator[tuple[str, click.Command]]:
    for verb in (*VERBS, *EXPERIMENTS):
        command = cli.get_command(click.Context(cli), verb) or _experiment(verb)
        yield verb, command
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                yield f"{verb} {name}", command.commands[name]


def _experiment(verb: str) -> click.Command:
    import importlib

    command: click.Command = importlib.import_module(f"mlxk.cli.{verb}").command
    return command


def examples(command: click.Command) -> list[str]:
    """The lines of its page that begin with `mlxk`, or that pipe something into it."""
    lines = [line.strip() for line in (command.epilog or "").splitlines()]
    return [line for line in lines if re.search(r"(^|[|(=] ?)([A-Z_]+=\S+ )*mlxk\b", line)]


ALL = list(commands())


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_example_is_a_command_that_is_understood(name: str, command: click.Command) -> None:
    found = examples(command)
    assert found, "a help page needs an example"
    for line in found:
        call = line[re.search(r"\bmlxk\b", line).start() :]  # type: ignore[union-attr]
        call = call.split(')"')[0].split("$(")[0] if call.count("(") != call.count(")") else call
        words = shlex.split(SHELL_WORDS.sub("", call))[1:]
        parse(words)


def parse(words: list[str]) -> None:
    """Raises click.UsageError if these words are none of ours."""
    context = cli.make_context("mlxk", list(words), resilient_parsing=False)
    command: click.Command = cli
    while isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None
        context = found.make_context(found.name, rest, parent=context)
        command = found


def test_an_example_that_is_none_would_be_found() -> None:
    with pytest.raises(click.UsageError):
        parse(["ps", "--nonsense"])
    with pytest.raises(click.UsageError):
        parse(["config", "nonsense"])


def test_groups_are_known_to_the_envelope() -> None:
    groups = {name: command for name, command in ALL if isinstance(command, click.Group)}
    assert {name: set(group.commands) for name, group in groups.items()} == {
        name: set(subs) for name, subs in SUBVERBS.items()
    }


def test_names_are_completed_wherever_a_model_is_named() -> None:
    """`pull` names what is not here yet."""
    arguments = {
        (verb, str(parameter.name))
        for verb, command in ALL
        for parameter in command.params
        if isinstance(parameter, click.Argument) and parameter.name in ("model", "models", "pattern", "verb")
    }
    assert arguments - {("pull", "models")} == set(_NAMES)


def test_help_of_a_verb_is_its_help_page(mlxk_here):
    assert mlxk_here("help", "run").out == mlxk_here("run", "--help").out
    assert mlxk_here("help").out == mlxk_here("--help").out
    assert mlxk_here("help", "config", "init").out == mlxk_here("config", "init", "--help").out
    assert mlxk_here("help", "--json", "ps").data["text"] in mlxk_here("ps", "--help").out


@pytest.mark.parametrize("verb", ["", *(name for name, _ in ALL)])
def test_help_of_a_verb_is_an_envelope_with_json(mlxk_here, verb):
    words = verb.split()
    expected = mlxk_here("help", "--json", *words)
    assert expected.data["verb"] == (verb or None)
    for asked in ((*words, "--help", "--json"), ("--json", *words, "-h"), (*words, "--json", "--help")):
        result = mlxk_here(*asked)
        assert (result.code, result.out, result.err) == (ExitCode.OK, expected.out, "")
    assert mlxk_here(*words, "--help", "--", "--json").out == mlxk_here(*words, "--help").out


def test_help_for_what_is_no_verb_is_a_usage_error(mlxk_here):
    for words in (("pss",), ("config", "int"), ("ps", "x")):
        result = mlxk_here("help", *words)
        assert (result.code, result.out) == (ExitCode.USAGE, "")


def test_the_version_in_every_way(mlxk_here):
    import mlxk

    for words in (("version",), ("--version",)):
        assert mlxk_here(*words).out == f"mlxk {mlxk.__version__}\n"
    assert mlxk_here("version", "--json").data == {"version": mlxk.__version__, "server": None}


def test_a_server_of_another_version_is_told(mlxk_here, running_instance, monkeypatch):
    running_instance()
    monkeypatch.setattr("mlxk.cli.version.__version__", "9.9")
    result = mlxk_here("version")
    assert (result.out, "0.1.0" in result.err, "mlxk restart" in result.err) == ("mlxk 9.9\n", True, True)


def test_the_document_is_made_of_the_pages(monkeypatch):
    for variable in EXPERIMENTS.values():
        monkeypatch.delenv(variable)
    text = Path(DOCUMENT).read_text(encoding="utf-8")
    assert text == document(), "docs/cli.md is old: python -m tools.cli_pages"
    for name, page in pages():
        assert page in text, name
