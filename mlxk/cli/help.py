"""`mlxk help VERB`: the same page as `mlxk VERB --help`."""

from __future__ import annotations

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
    page = _page(context.find_root(), list(verb))
    if not as_json:
        click.echo(page)
        return
    from mlxk.cli.main import verbs

    print_data("help", {"verb": " ".join(verb) or None, "verbs": list(verbs()), "text": page})


def _page(root: click.Context, words: list[str]) -> str:
    """Of `mlxk WORDS`. Raises UsageError for what is no verb."""
    context, group = root, root.command
    while words:
        if not isinstance(group, click.Group):
            raise click.UsageError(f"'{context.command_path}' has no verbs of its own", context)
        name, found, words = group.resolve_command(context, words)
        assert found is not None
        context, group = click.Context(found, info_name=name, parent=context), found
    return context.get_help()
