"""`mlxk stop`: end models, or the server, and return when they are really gone."""

from __future__ import annotations

from typing import Any

import click

from mlxk.cli.control import ask, end_server, server
from mlxk.cli.errors import CliError
from mlxk.cli.options import json_option, limit_option
from mlxk.cli.output import print_data, printable

ANSWER_GRACE_S = 2.0
"""The server gets `--timeout` for itself; so much longer we wait for it to say that it ran out."""

EXAMPLES = """\b
Examples:
  mlxk stop tiny             when its requests are done
  mlxk stop --now tiny       at once: they end with an error
  mlxk stop --all            all models; the server stays
  mlxk stop                  the server and everything in it"""


@click.command("stop", short_help="End models, or the server.", epilog=EXAMPLES)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--all", "every_model", is_flag=True, help="All models. The server stays.")
@click.option("--now", is_flag=True, help="Do not wait for requests that still run.")
@limit_option("End a model's requests after so long; a server not gone by then is exit 5: 30, 2m.")
@json_option
def command(
    models: tuple[str, ...], every_model: bool, now: bool, timeout_s: float | None, as_json: bool
) -> None:
    """End MODELs, or the server if none is named. Returns when their processes are gone.

    To stop what does not run is a success. Nothing is ever started.
    """
    if models and every_model:
        raise click.UsageError("name models or give --all, not both", click.get_current_context())
    try:
        with server() as client:
            if models or every_model:
                arguments = {"models": list(models), "all": every_model, "now": now, "timeout_s": timeout_s}
                limit_s = None if timeout_s is None else timeout_s + ANSWER_GRACE_S
                data = ask(client, "stop", arguments, timeout_s=limit_s)
            else:
                data = end_server(client, now=now, timeout_s=timeout_s)
    except CliError as error:
        if error.type != "server_not_running":
            raise
        data = _nothing_to_stop(models)
    if as_json:
        print_data("stop", data)
    else:
        report = _report(data, named=bool(models), every_model=every_model)
        click.echo(printable(report, keep_lines=True))


def _nothing_to_stop(models: tuple[str, ...]) -> dict[str, Any]:
    """What is true without a server: no model runs. A name that is no model's is still an error."""
    return {
        "models": [{"name": _known(name), "stopped": False, "freed_bytes": 0} for name in models],
        "server": False,
    }


def _known(name: str) -> str:
    from mlxk.cli.names import resolve_model

    try:
        return resolve_model(name).name
    except CliError as error:
        if error.type != "model_unhealthy":
            raise
        return str(error.details["model"])


def _report(data: dict[str, Any], *, named: bool, every_model: bool) -> str:
    from mlxk.config.units import format_size

    models = data.get("models", [])
    if data.get("server"):
        freed = sum(model.get("freed_bytes") or 0 for model in models)
        return "stopped the server" + (f", freed {format_size(freed)}" if freed else "")
    if named or (every_model and models):
        return "\n".join(
            f"stopped {model['name']}, freed {format_size(model.get('freed_bytes') or 0)}"
            if model.get("stopped")
            else f"{model['name']} was not running"
            for model in models
        )
    return "no model is loaded" if every_model else "no server is running"
