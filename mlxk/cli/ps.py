"""`mlxk ps`: what is loaded, and what it costs."""

from __future__ import annotations

from typing import Any

import click

from mlxk.cli.control import ANSWER_LIMIT_S, server
from mlxk.cli.options import interval_option, json_option
from mlxk.cli.output import NOTHING, format_table, print_data, terminal_width

HEAD = ("NAME", "ID", "STATE", "SIZE", "MEM", "CACHE", "REQS", "TOK/S", "UNTIL")
WIDE_HEAD = (*HEAD, "PID", "UPTIME", "RESTARTS", "LAST ERROR")
NUMBERS = ("SIZE", "MEM", "CACHE", "REQS", "TOK/S", "PID", "UPTIME", "RESTARTS")
LEAVE_OUT = ("ID", "SIZE", "CACHE", "UNTIL")
"""In a narrow terminal, in this order."""
INTERVAL_S = 2.0

EXAMPLES = """\b
Examples:
  mlxk ps
  mlxk ps --wide
  mlxk ps --watch                          again and again, until q or Ctrl-C
  mlxk ps --watch --json | jq -c .data     one envelope a line
  mlxk ps --json | jq -r '.data.models[].name'"""


@click.command("ps", short_help="Show the loaded models.", epilog=EXAMPLES)
@click.option("--wide", is_flag=True, help="Also pid, uptime, restarts and the last error; all columns.")
@click.option("-w", "--watch", is_flag=True, help="Show it again and again; also when the server was away.")
@interval_option("With --watch: how often.  [default: 2s]")
@json_option
@click.pass_context
def command(context: click.Context, wide: bool, watch: bool, interval_s: float | None, as_json: bool) -> None:
    """Show the models that the running server holds, and those whose process has died.

    Of these --wide says why; they go from here when they are loaded again, or with `mlxk stop MODEL`.

    REQS is the number of running requests, with "+N" for those that wait; UNTIL is when an idle model
    will be unloaded. In a narrow terminal long names are cut and some columns are left out.
    """
    if watch:
        from mlxk.cli.ps_watch import watch_pool

        context.exit(watch_pool(interval_s or INTERVAL_S, wide=wide, as_json=as_json))
    if interval_s is not None:
        raise click.UsageError("--interval is for --watch")
    with server() as client:
        data = client.call("ps", {}, timeout_s=ANSWER_LIMIT_S)
    if as_json:
        print_data("ps", data)
    else:
        click.echo(format_pool(data, wide=wide, fit=terminal_width()))


def format_pool(data: dict[str, Any], *, wide: bool, fit: int | None = None) -> str:
    """The table of a pool's data, in so many cells, but a `wide` one with all columns and whole names. Only
    the header when nothing is loaded."""
    rows = [_row(model, wide=wide) for model in data.get("models", [])]
    if wide:
        return format_table(WIDE_HEAD, rows, right=NUMBERS, fit=fit, flexible=("LAST ERROR",))
    return format_table(HEAD, rows, right=NUMBERS, fit=fit, drop=LEAVE_OUT, flexible=("NAME",))


def _row(model: dict[str, Any], *, wide: bool) -> list[str]:
    row = [
        str(model.get("name")),
        str(model.get("id") or NOTHING),
        str(model.get("state")),
        size(model.get("size_bytes")),
        size(model.get("memory_bytes")),
        size((model.get("cache") or {}).get("bytes")),
        requests(model),
        speed(model),
        duration(model.get("until")),
    ]
    if wide:
        row += [
            str(model.get("pid") or NOTHING),
            duration(model.get("uptime_s")),
            str(model.get("restarts") or 0),
            str(model.get("last_error") or NOTHING),
        ]
    return row


def requests(model: dict[str, Any]) -> str:
    """Running, and those that wait."""
    queued = model.get("queued") or 0
    return f"{model.get('in_flight') or 0}" + (f"+{queued}" if queued else "")


def speed(model: dict[str, Any]) -> str:
    tokens_per_s = model.get("tokens_per_s")
    return f"{tokens_per_s:.0f}" if tokens_per_s else NOTHING


def size(n_bytes: int | None) -> str:
    from mlxk.config.units import format_size

    return NOTHING if n_bytes is None else format_size(n_bytes)


def duration(seconds: float | None) -> str:
    """Seconds left or gone by; negative is for ever; None (busy, not known) is nothing."""
    from mlxk.config.units import format_duration

    return NOTHING if seconds is None else format_duration(seconds)
