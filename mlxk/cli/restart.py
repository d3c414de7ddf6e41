"""`mlxk restart`: models in the running server, or the server itself."""

from __future__ import annotations

from typing import Any

import click

from mlxk.cli.control import ask, end_server, server
from mlxk.cli.errors import not_running
from mlxk.cli.options import json_option, limit_option
from mlxk.cli.output import print_data

EXAMPLES = """\b
Examples:
  mlxk restart tiny     a fresh process for one model
  mlxk restart          the server, in the background, with the arguments it was started with"""


@click.command("restart", short_help="Restart models, or the server.", epilog=EXAMPLES)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--now", is_flag=True, help="Do not wait for requests that still run on the old process.")
@limit_option("End the old process's requests after so long: 30, 2m.  [default: no limit]")
@json_option
def command(models: tuple[str, ...], now: bool, timeout_s: float | None, as_json: bool) -> None:
    """Restart MODELs, or the server if none is named.

    A model's new process is ready before the old one drains, where memory allows two: no request fails.
    The server ends as with `mlxk stop` and comes back in the background, with the arguments that it was
    started with.
    """
    data = _restart_models(models, now, timeout_s) if models else _restart_server(now, timeout_s)
    if as_json:
        print_data("restart", data)
        return
    for model in data.get("models", []):
        gap = "" if model.get("seamless") else " (its requests had to wait)"
        click.echo(f"restarted {model['name']} in {model.get('took_s') or 0:.1f} s{gap}")
    if process := data.get("server"):
        click.echo(f"restarted the server: pid {process['pid']}, {process['url']}")


def _restart_models(models: tuple[str, ...], now: bool, timeout_s: float | None) -> dict[str, Any]:
    with server() as client:
        arguments = {"models": list(models), "now": now, "timeout_s": timeout_s}
        return ask(client, "restart", arguments, timeout_s=None)


def _restart_server(now: bool, timeout_s: float | None) -> dict[str, Any]:
    from mlxk.cli.server_process import arguments_of, start_detached
    from mlxk.config.instance import read_instance

    instance = read_instance()
    if instance is None:
        raise not_running()
    with server() as client:
        end_server(client, now=now, timeout_s=timeout_s)
    ready = start_detached(arguments_of(instance.argv), cwd=instance.cwd)
    return {"models": [], "server": {"pid": ready.pid, "url": ready.url}}
