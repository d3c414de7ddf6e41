"""`mlxk reload`: the running server reads its configuration again."""

from __future__ import annotations

from typing import Any

import click

from mlxk.cli.control import ask, server
from mlxk.cli.options import json_option
from mlxk.cli.output import print_data, printable

EXAMPLES = """\b
Examples:
  mlxk reload           after an edit of config.toml; no request is disturbed

\b
The same as: kill -HUP PID"""

LINES = (
    ("applied", "in effect: {}"),
    ("next_load", "for models loaded from now on: {}"),
    ("models", "models whose settings have changed: {}"),
    ("models_to_restart", "restarted, if they run: {}"),
    ("models_to_load", "loaded: {}"),
    ("needs_restart", "only after `mlxk restart`: {}"),
)


@click.command("reload", short_help="Read the configuration again.", epilog=EXAMPLES)
@json_option
def command(as_json: bool) -> None:
    """Have the running server read its configuration again, and touch only what has changed.

    If the new configuration is wrong, the old one stays in effect and the mistake is told here.
    """
    with server() as client:
        data = ask(client, "reload", {}, timeout_s=None)
    if as_json:
        print_data("reload", data)
        return
    click.echo(printable("\n".join(_report(data)), keep_lines=True) or "nothing has changed")


def _report(data: dict[str, Any]) -> list[str]:
    return [line.format(", ".join(data[key])) for key, line in LINES if data.get(key)]
