"""`mlxk restart`: models in the running server, or the server itself."""

from __future__ import annotations

import time
from typing import Any

import click

from mlxk.cli.control import ask, server
from mlxk.cli.errors import CliError
from mlxk.cli.options import json_option, limit_option
from mlxk.cli.output import print_data, printable

POLL_S = 0.05

EXAMPLES = """\b
Examples:
  mlxk restart tiny     a fresh process for one model
  mlxk restart          the server, with the arguments it was started with"""


@click.command("restart", short_help="Restart models, or the server.", epilog=EXAMPLES)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--now", is_flag=True, help="Do not wait for requests that still run on the old process.")
@limit_option("End what runs after so long: 30, 2m.  [default: no limit; the server: drain_timeout]")
@json_option
def command(models: tuple[str, ...], now: bool, timeout_s: float | None, as_json: bool) -> None:
    """Restart MODELs, or the server if none is named.

    A model's new process is ready before the old one drains, where memory allows two: no request fails.
    The server ends as with `mlxk stop` and begins anew in the same process, with the environment and the
    arguments that it was started with, in the foreground or the background as before. If the configuration
    has become wrong, it says so and goes on as it is.
    """
    data = _restart_models(models, now, timeout_s) if models else _restart_server(now, timeout_s)
    if as_json:
        print_data("restart", data)
        return
    for model in data.get("models", []):
        click.echo(printable(_sentence(model)))
    if process := data.get("server"):
        click.echo(f"restarted the server: pid {process['pid']}, {process['url']}")


def _sentence(model: dict[str, Any]) -> str:
    took = f"in {model.get('took_s') or 0:.1f} s"
    if model.get("seamless"):
        return f"restarted {model['name']} {took}"
    if not model.get("freed_bytes"):
        return f"{model['name']} was not running; loaded {took}"
    return f"restarted {model['name']} {took} (no room for two processes: requests had to wait)"


def _restart_models(models: tuple[str, ...], now: bool, timeout_s: float | None) -> dict[str, Any]:
    with server() as client:
        arguments = {"models": list(models), "now": now, "timeout_s": timeout_s}
        answer = ask(client, "restart", arguments, timeout_s=None)
    return {"models": answer["models"], "server": None}


def _restart_server(now: bool, timeout_s: float | None) -> dict[str, Any]:
    from mlxk.config.instance import read_recorded

    with server() as client:
        before = read_recorded()
        old_control = before.control if before else None
        ask(client, "restart", {"models": [], "now": now, "timeout_s": timeout_s}, timeout_s=None)
        # It keeps its pid, but not its control socket.
        while client.is_server_alive():
            instance = read_recorded()
            if instance is not None and instance.control != old_control and instance.pid == client.pid:
                return {"models": [], "server": {"pid": instance.pid, "url": instance.url}}
            time.sleep(POLL_S)
    raise CliError("start_failed", _why_it_stayed_away(client.pid))


def _why_it_stayed_away(pid: int) -> str:
    return (
        f"the server (pid {pid}) ended and did not come back; `mlxk logs` says why. "
        "Start it anew with: mlxk serve"
    )
