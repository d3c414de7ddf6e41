"""`mlxk load`: have models ready before the first request."""

from __future__ import annotations

from typing import Any

import click

from mlxk.cli.control import ask, server
from mlxk.cli.options import json_option
from mlxk.cli.output import print_data

EXAMPLES = """\b
Examples:
  mlxk load tiny
  mlxk load mlx-community/Qwen3-0.6B-4bit tiny"""


@click.command("load", short_help="Load models into the running server.", epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@json_option
def command(models: tuple[str, ...], as_json: bool) -> None:
    """Load models into the running server and wait until they are ready."""
    with server() as client:
        data = ask(client, "load", {"models": list(models)}, timeout_s=None)
    if as_json:
        print_data("load", data)
        return
    for model in data.get("models", []):
        click.echo(_sentence(model))


def _sentence(model: dict[str, Any]) -> str:
    from mlxk.config.units import format_size

    if model.get("already_loaded"):
        return f"{model['name']}: already loaded"
    memory = model.get("memory_bytes")
    took = f"{model['name']}: loaded in {model.get('load_s') or 0:.1f} s"
    return f"{took}, {format_size(memory)}" if memory else took
