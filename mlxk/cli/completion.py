"""`mlxk completion SHELL`: what makes the shell complete verbs, options and names of models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from mlxk.cli.options import json_option
from mlxk.cli.output import print_data

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SHELLS = ("bash", "zsh", "fish")
LOADED_LIMIT_S = 0.5
"""A server that does not answer at once does not keep a key from doing something."""

EXAMPLES = """\b
Examples:
  eval "$(mlxk completion bash)"      in ~/.bashrc
  eval "$(mlxk completion zsh)"       in ~/.zshrc, after compinit
  mlxk completion fish > ~/.config/fish/completions/mlxk.fish"""


@click.command("completion", short_help="Make the shell complete words.", epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(SHELLS))
@click.argument("words", nargs=-1, metavar="")
@click.option("--for", "is_question", is_flag=True, hidden=True, help="Complete the last of WORDS.")
@json_option
def command(shell: str, words: tuple[str, ...], is_question: bool, as_json: bool) -> None:
    """Print a script for bash, zsh or fish that completes verbs, options, and names of models.

    Installed models are offered to run, show and their like; loaded ones to stop, restart and logs.
    """
    if is_question:
        click.echo("\n".join(_answer(shell, list(words))))
        return
    if words:
        raise click.UsageError(
            f"one shell at a time: there is an extra argument ({' '.join(words)})",
            click.get_current_context(),
        )
    from mlxk.cli.completion_scripts import SCRIPTS

    if as_json:
        print_data("completion", {"shell": shell, "script": SCRIPTS[shell]})
    else:
        click.echo(SCRIPTS[shell], nl=False)


def _answer(shell: str, words: list[str]) -> list[str]:
    if shell == "bash":
        words = _words_of_line(words[0] if words else "")
    *before, current = words or [""]
    lines = [f"word\t{current}\t"]
    with contextlib.suppress(click.UsageError):  # what stands before it is wrong: nothing can follow
        for item in complete(before, current):
            note = " ".join((item.help or "").split())
            lines.append(f"{item.type}\t{item.value}\t{note}")
    return lines


def _words_of_line(line: str) -> list[str]:
    """The words behind the program's name, the last of them unfinished."""
    from click.shell_completion import split_arg_string

    words = split_arg_string(line)[1:]
    return [*words, ""] if not words or line[-1:].isspace() else words


def complete(before: list[str], current: str) -> list[CompletionItem[str]]:
    """What may stand in the place of `current`, behind these words."""
    from click.shell_completion import ShellComplete

    from mlxk.cli.main import cli

    class Asked(ShellComplete):
        name = "asked"

        def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
            from click.shell_completion import _resolve_context, _resolve_incomplete

            context = _resolve_context(self.cli, dict(self.ctx_args), self.prog_name, args)
            what, rest = _resolve_incomplete(context, args, incomplete)
            names = _NAMES.get((context.info_name or "", what.name or ""))
            if names is None or isinstance(what, click.Command):
                return what.shell_complete(context, rest)
            return _matching(names(), rest, chosen=context.params.get(what.name or "") or ())

    return Asked(cli, {}, "mlxk", "").get_completions(before, current)


def _matching(names: Iterable[str], current: str, chosen: str | Iterable[str]) -> list[CompletionItem[str]]:
    """Names that begin so; else, of those with an organization, their last parts that do."""
    from click.shell_completion import CompletionItem

    taken = {chosen} if isinstance(chosen, str) else set(chosen)
    names = sorted(set(names) - taken)
    found = [name for name in names if name.startswith(current)]
    if not found:
        prefix = f"{_DEFAULT_ORG}/"
        found = [name.removeprefix(prefix) for name in names if name.startswith(prefix + current)]
    return [CompletionItem(name) for name in found if name.isprintable()]


_DEFAULT_ORG = "mlx-community"


def installed_names() -> list[str]:
    """Of the configuration, too. Reads directories only: no model is looked into."""
    from mlxk.cli.errors import CliError
    from mlxk.cli.names import read_settings
    from mlxk.store.index import Index

    with contextlib.suppress(CliError, OSError):
        index = Index(read_settings())
        return [*index.installed, *index.aliases]
    return []


def loaded_names() -> list[str]:
    """Of the running server; none if it does not answer at once."""
    from mlxk.cli.control import server
    from mlxk.cli.errors import CliError

    with contextlib.suppress(CliError, OSError), server() as client:
        models: list[dict[str, Any]] = client.call("ps", {}, timeout_s=LOADED_LIMIT_S)["models"]
        return [model["name"] for model in models]
    return []


def _verb_names() -> list[str]:
    from mlxk.cli.main import verbs

    return list(verbs())


_NAMES: dict[tuple[str, str], Callable[[], list[str]]] = {
    ("run", "model"): installed_names,
    ("show", "model"): installed_names,
    ("health", "model"): installed_names,
    ("list", "pattern"): installed_names,
    ("rm", "models"): installed_names,
    ("convert", "model"): installed_names,
    ("push", "model"): installed_names,
    ("load", "models"): installed_names,
    ("serve", "models"): installed_names,
    ("stop", "models"): loaded_names,
    ("restart", "models"): loaded_names,
    ("logs", "model"): loaded_names,
    ("help", "verb"): _verb_names,
}
"""Verb and argument -> what it may be."""
