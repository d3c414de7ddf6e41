"""What people and scripts get to see: one JSON envelope, plain tables, errors on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import click

from mlxk.cli.errors import CliError

NOTHING = "-"
"""What a table shows where there is no value, so that every row has the same number of words."""


def print_data(command: str, data: Mapping[str, Any], *, error: CliError | None = None) -> None:
    """The envelope of a verb that did what it was asked; `error` if what it found is itself a failure."""
    fault = None if error is None else _fault(error)
    status = "success" if error is None else "error"
    _print_envelope({"status": status, "command": command, "data": data, "error": fault})


def print_error(error: CliError, command: str | None, *, as_json: bool) -> None:
    """An envelope on stdout, or a sentence on stderr."""
    if as_json:
        _print_envelope({"status": "error", "command": command, "data": None, "error": _fault(error)})
    else:
        click.echo(click.style("error: ", fg="red") + printable(error.message, keep_lines=True), err=True)


def print_usage_error(error: click.UsageError, command: str | None, *, as_json: bool) -> None:
    """Like `print_error`, and for people the usage line and where the help is."""
    message = error.format_message()
    if not as_json and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
        click.echo(f"Try '{error.ctx.command_path} --help'.", err=True)
    print_error(CliError("usage", message), command, as_json=as_json)


def _fault(error: CliError) -> dict[str, Any]:
    return {"type": error.type, "message": error.message, **error.details}


def note(message: str) -> None:
    """A remark for people. On stderr, so that it is never part of the result."""
    click.echo(message, err=True)


def _print_envelope(envelope: Mapping[str, Any]) -> None:
    import json

    indent = 2 if sys.stdout.isatty() else None
    text = json.dumps(envelope, ensure_ascii=False, indent=indent, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # an ASCII terminal, or half a surrogate pair from a model: escape instead
        text = json.dumps(envelope, indent=indent, default=str)
    click.echo(text)


def printable(text: str, *, keep_lines: bool = False) -> str:
    """`text` without control characters: a model's name or a crash log must not steer the terminal."""
    return "".join(
        char if char.isprintable() or (keep_lines and char == "\n") else " " if char.isspace() else "?"
        for char in text
    )


def width(text: str) -> int:
    """Terminal cells that `text` takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Columns two blanks apart, those named in `right` aligned to the right. Written here because `mlxk ps`
    prints one, and importing rich would cost it half as much again."""
    lines = [list(head), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(width(line[i]) for line in lines) for i in range(len(head))]

    def pad(cell: str, column: int) -> str:
        blanks = " " * (widths[column] - width(cell))
        return blanks + cell if head[column] in right else cell + blanks

    return "\n".join("  ".join(pad(cell, i) for i, cell in enumerate(line)).rstrip() for line in lines)


def silence(*streams: TextIO) -> None:
    """After a broken pipe or a full disk: point them at nothing, or the interpreter, which tries to write the
    rest at its exit, complains once more and changes the exit code."""
    for stream in streams:
        try:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, stream.fileno())
            os.close(descriptor)
        except (OSError, ValueError):
            pass  # no real stream, so there is nothing to complain about
