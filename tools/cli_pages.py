"""`python -m tools.cli_pages` writes docs/cli.md: the help pages of all verbs, as they are printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from mlxk.cli.main import VERBS, cli

DOCUMENT = Path(__file__).parents[1] / "docs" / "cli.md"
WIDTH = 100
HEAD = """\
# The command line

The help pages, written here by `python -m tools.cli_pages` (a test compares). What
`--json` prints: [cli-schema.json](cli-schema.json). Every key of the settings: `mlxk config init --print`.
"""


def document() -> str:
    parts = [HEAD]
    for name, page in pages():
        parts.append(f"\n## mlxk {name}".rstrip() + f"\n\n```\n{page}\n```\n")
    return "".join(parts)


def pages() -> Iterator[tuple[str, str]]:
    """The words behind `mlxk`, and the page."""
    root = click.Context(cli, info_name="mlxk", **_SIZE)
    yield "", cli.get_help(root)
    for verb in VERBS:
        command = cli.get_command(root, verb)
        assert command is not None
        yield from _pages(verb, command, root)


def _pages(name: str, command: click.Command, parent: click.Context) -> Iterator[tuple[str, str]]:
    context = click.Context(command, info_name=command.name, parent=parent, **_SIZE)
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            yield from _pages(f"{name} {sub}", command.commands[sub], context)


_SIZE = {"terminal_width": WIDTH, "max_content_width": WIDTH, "help_option_names": ["-h", "--help"]}


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
    print(f"wrote {DOCUMENT}")
