"""`mlxk restart`: models in the running server, or the server itself."""

from __future__ import annotations

from typing import Any

import click

from mlxk.cli.control import ask, end_server, server
from mlxk.cli.errors import not_running
from mlxk.cli.options import json_option
from mlxk.cli.output import print_data

EXAMPLES = """\b
Examples:
  mlxk restart tiny     a fresh process for one model
  mlxk restart          the server, in the background, with the arguments it was started with"""


@click.command("restart", short_help="Restart models, or the server.", epilog=EXAMPLES)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@json_option
def command(models: tuple[str, ...], as_json: bool) -> None:
    """Restart MODELs, or the server if none is named.

    The server ends as with `mlxk stop` and comes back in the background, with the arguments that it was
    started with.
    """
    data = _restart_models(models) if models else _restart_server()
    if as_json:
        print_data("restart", data)
        return
    for model in data.get("models", []):
        click.echo(f"restarted {model['name']}")
    if process := data.get("server"):
        click.echo(f"restarted the server: pid {process['pid']}, {process['url']}")


def _restart_models(models: tuple[str, ...]) -> dict[str, Any]:
    with server() as client:
        return ask(client, "restart", {"models": list(models)}, timeout_s=None)


def _restart_server() -> dict[str, Any]:
    from mlxk.cli.server_process import arguments_of, start_detached
    from mlxk.config.instance import read_instance

    instance = read_instance()
    if instance is None:
        raise not_running()
    with server() as client:
        end_server(client, now=False, timeout_s=None)
    ready = start_detached(arguments_of(instance.argv), cwd=instance.cwd)
    return {"models": [], "server": {"pid": ready.pid, "url": ready.url}}
