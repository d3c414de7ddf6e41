"""`mlxk version`: this command's, and the running server's if that is another one."""

from __future__ import annotations

import click

from mlxk import __version__
from mlxk.cli.options import json_option
from mlxk.cli.output import note, print_data

EXAMPLES = """\b
Examples:
  mlxk version
  mlxk --version                   the same, without a look at the server"""


@click.command("version", short_help="Print the version.", epilog=EXAMPLES)
@json_option
def command(as_json: bool) -> None:
    """Print the version; after an upgrade, also that of a server that still runs the old one."""
    from mlxk.config.instance import read_instance

    instance = read_instance()
    if as_json:
        print_data("version", {"version": __version__, "server": instance.version if instance else None})
        return
    click.echo(f"mlxk {__version__}")
    if instance is not None and instance.version != __version__:
        note(f"the running server is mlxk {instance.version}; to bring it up to date: mlxk restart")
