"""`mlxk logs`: what the server and its workers have written, also when no server runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxk.cli.errors import CliError
from mlxk.cli.options import json_option
from mlxk.cli.output import note, print_data, printable
from mlxk.cli.watching import pause, print_line, write_out

if TYPE_CHECKING:
    from mlxk.config.crash_file import Crash

EXAMPLES = """\b
Examples:
  mlxk logs                        the server's log
  mlxk logs -f tiny                what the model's worker prints, and goes on
  mlxk logs --last-crash tiny      how its last crash went
  mlxk logs -f --json | jq -r .line"""

_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
"""ANSI: colours and cursor moves, window titles, single letters."""
_REDRAWN = re.compile(rb"[^\n]*\r(?!\n)")
"""A progress bar that was drawn over."""


@click.command("logs", short_help="Show the log of the server, or of a model.", epilog=EXAMPLES)
@click.argument("model", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "--last-crash", is_flag=True, help="How the model's last crash went (without MODEL: any model's)."
)
@click.option(
    "-n",
    "--lines",
    "n_lines",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="So many of the last.",
)
@json_option
def command(model: str | None, follow: bool, last_crash: bool, n_lines: int, as_json: bool) -> None:
    """Show the log of a model's workers, or without MODEL the server's.

    The files are in $MLXK_HOME/logs; they outlive the server. -f follows a log when it is rotated, and also
    waits for a server or a model that does not run (any more). With --json -f prints one object a line.
    """
    from mlxk.config.paths import log_dir

    if last_crash and follow:
        raise click.UsageError("--last-crash and -f exclude each other")
    folder = log_dir()
    name = None if model is None else _model_name(model, folder)
    if last_crash:
        _show_crash(folder, name, n_lines, as_json=as_json)
        return
    from mlxk.config import log_files

    path = log_files.server_log(folder) if name is None else log_files.model_log(folder, name)
    _show(path, name, n_lines, follow=follow, as_json=as_json)


def _model_name(name: str, folder: Path) -> str:
    """The installed model's name; also of one that is broken, or that has been removed and left its log."""
    from mlxk.cli.names import resolve_model
    from mlxk.config.log_files import crash_file, model_log

    try:
        return resolve_model(name).name
    except CliError as error:
        if error.type == "model_unhealthy":
            return str(error.details["model"])
        if model_log(folder, name).exists() or crash_file(folder, name).exists():
            return name
        raise


# ------------------------------------------------------------------------------- lines


def _show(path: Path, name: str | None, n_lines: int, *, follow: bool, as_json: bool) -> None:
    from mlxk.cli.tail import LogReader

    with LogReader(path) as reader:
        lines = reader.last_lines(n_lines)
        if not follow:
            if as_json:
                texts = [_text(line) for line in lines]
                print_data("logs", {"model": name, "path": str(path), "lines": texts})
            elif not lines and n_lines:
                note(_nothing(path, name))
            else:
                write_out(_safe(b"".join(lines)))
            return
        if not lines and n_lines and not as_json:
            note(f"{_nothing(path, name)} Waiting for it.")
        held = _put(b"".join(lines), b"", as_json)
        while True:
            for block in reader.read():
                held = _put(block, held, as_json)
            if reader.lost:
                reader.lost = False
                note("(some lines were written and removed before they could be read)")
            pause()


def _put(block: bytes, held: bytes, as_json: bool) -> bytes:
    """Print whole lines; returns the beginning of one that is not ended yet. A very long one is printed in
    pieces."""
    data = held + block
    whole, ended, rest = data.rpartition(b"\n")
    if not ended and len(rest) > 65536:
        whole, rest = rest, b""
    if not whole and not ended:
        return rest
    if as_json:
        for line in whole.split(b"\n"):
            print_line({"line": _text(line)})
    else:
        write_out(_safe(whole + ended))
    return rest


def _text(line: bytes) -> str:
    return line.rstrip(b"\r\n").decode("utf-8", "replace")


def _safe(data: bytes) -> bytes:
    """For a terminal: without what could steer it. A file or a pipe gets the bytes as they are."""
    if not sys.stdout.isatty():
        return data
    text = _REDRAWN.sub(b"", _ESCAPES.sub(b"", data).replace(b"\r\n", b"\n")).expandtabs(8)
    return printable(text.decode("utf-8", "replace"), keep_lines=True).encode(
        sys.stdout.encoding or "utf-8", "replace"
    )


def _nothing(path: Path, name: str | None) -> str:
    who = "The server" if name is None else f"{printable(name)} has never run here: it"
    return f"{who} has no log yet ({path})."


# ----------------------------------------------------------------------------- crashes


def _show_crash(folder: Path, name: str | None, n_lines: int, *, as_json: bool) -> None:
    from mlxk.config.crash_file import newest_crash, read_crash

    crash = newest_crash(folder) if name is None else read_crash(folder, name)
    if crash is not None:
        lines = crash.get("lines")
        crash["lines"] = (
            [str(line) for line in lines][-n_lines:] if isinstance(lines, list) and n_lines else []
        )
    if as_json:
        print_data("logs", {"model": name or (crash or {}).get("model"), "crash": crash})
    elif crash is None:
        click.echo(f"No crash of {printable(name) if name else 'any model'} is known.")
    else:
        click.echo(format_crash(crash))


def format_crash(crash: Crash) -> str:
    fate: Any = crash.get("exit")
    lines = [
        f"{crash['model']} crashed at {crash.get('ended_at')}",
        f"reason:   {crash.get('reason')}",
        f"worker:   {crash.get('worker')} (pid {crash.get('pid')}), started at {crash.get('started_at')}",
        f"state:    {crash.get('state')}, requests running: {crash.get('requests')}",
    ]
    if isinstance(fate, dict):
        how = f"signal {fate['signal']}" if fate.get("signal") else f"exit code {fate.get('code')}"
        lines.append(f"end:      {how}")
    output = crash["lines"]
    lines.append("the last it printed:" if output else "It had printed nothing.")
    head = [printable(line, keep_lines=True) for line in lines]
    return "\n".join([*head, *(f"  {printable(line.expandtabs(8))}" for line in output)])
