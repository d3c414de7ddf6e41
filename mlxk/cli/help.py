"""`mlxk help VERB`: the same page as `mlxk VERB --help`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mlxk.cli.options import json_option
from mlxk.cli.output import print_data

EXAMPLES = """\b
Examples:
  mlxk help
  mlxk help run
  mlxk help config init"""


@click.command("help", short_help="Show the help page of a verb.", epilog=EXAMPLES)
@click.argument("verb", nargs=-1)
@json_option
@click.pass_context
def command(context: click.Context, verb: tuple[str, ...], as_json: bool) -> None:
    """Show the help page of a verb, or of all of them. With --json: the page's text, and the verbs."""
    if as_json:
        print_page(context, verb)
    else:
        click.echo(_page(context.find_root(), verb))


def print_page(context: click.Context, words: Sequence[str]) -> None:
    """The envelope of `mlxk help --json`."""
    from mlxk.cli.main import verbs

    page = _page(context.find_root(), words)
    print_data("help", {"verb": " ".join(words) or None, "verbs": list(verbs()), "text": page})


def _page(root: click.Context, verb: Sequence[str]) -> str:
    """Of `mlxk VERB`. Raises UsageError for what is no verb."""
    context, group, words = root, root.command, list(verb)
    while words:
        if not isinstance(group, click.Group):
            raise click.UsageError(f"'{context.command_path}' has no verbs of its own", context)
        name, found, words = group.resolve_command(context, words)
        assert found is not None
        context, group = click.Context(found, info_name=name, parent=context), found
    return context.get_help()
