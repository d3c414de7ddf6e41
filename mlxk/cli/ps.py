"""`mlxk ps`: what is loaded, and what it costs."""

from __future__ import annotations

from typing import Any

import click

from mlxk.cli.control import ANSWER_LIMIT_S, server
from mlxk.cli.options import json_option
from mlxk.cli.output import NOTHING, format_table, print_data

HEAD = ("NAME", "ID", "STATE", "SIZE", "MEM", "CACHE", "REQS", "TOK/S", "UNTIL")
WIDE_HEAD = (*HEAD, "PID", "UPTIME", "RESTARTS", "LAST ERROR")
NUMBERS = ("SIZE", "MEM", "CACHE", "REQS", "TOK/S", "PID", "UPTIME", "RESTARTS")

EXAMPLES = """\b
Examples:
  mlxk ps
  mlxk ps --wide
  mlxk ps --json | jq -r '.data.models[].name'"""


@click.command("ps", short_help="Show the loaded models.", epilog=EXAMPLES)
@click.option("--wide", is_flag=True, help="Also pid, uptime, restarts and the last error.")
@json_option
def command(wide: bool, as_json: bool) -> None:
    """Show the models that the running server holds.

    REQS is the number of running requests, with "+N" for those that wait; UNTIL is when an idle model
    will be unloaded.
    """
    with server() as client:
        data = client.call("ps", {}, timeout_s=ANSWER_LIMIT_S)
    if as_json:
        print_data("ps", data)
    else:
        click.echo(format_pool(data, wide=wide))


def format_pool(data: dict[str, Any], *, wide: bool) -> str:
    """The table of a pool's data. Only the header when nothing is loaded."""
    rows = [_row(model, wide=wide) for model in data.get("models", [])]
    return format_table(WIDE_HEAD if wide else HEAD, rows, right=NUMBERS)


def _row(model: dict[str, Any], *, wide: bool) -> list[str]:
    cache = model.get("cache") or {}
    queued = model.get("queued") or 0
    speed = model.get("tokens_per_s")
    row = [
        str(model.get("name")),
        str(model.get("id") or NOTHING),
        str(model.get("state")),
        _size(model.get("size_bytes")),
        _size(model.get("memory_bytes")),
        _size(cache.get("bytes")),
        f"{model.get('in_flight') or 0}" + (f"+{queued}" if queued else ""),
        f"{speed:.0f}" if speed else NOTHING,
        _time(model.get("until")),
    ]
    if wide:
        row += [
            str(model.get("pid") or NOTHING),
            _time(model.get("uptime_s")),
            str(model.get("restarts") or 0),
            str(model.get("last_error") or NOTHING),
        ]
    return row


def _size(n_bytes: int | None) -> str:
    from mlxk.config.units import format_size

    return NOTHING if n_bytes is None else format_size(n_bytes)


def _time(seconds: float | None) -> str:
    """Seconds left or gone by; negative is for ever; None (busy, not known) is nothing."""
    from mlxk.config.units import format_duration

    return NOTHING if seconds is None else format_duration(seconds)
