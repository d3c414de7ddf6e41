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


def print_compact(command: str, data: Mapping[str, Any] | None, *, error: CliError | None = None) -> None:
    """The same on one line, at once: one of several."""
    from mlxk.cli.watching import print_line

    status = "success" if error is None else "error"
    fault = None if error is None else _fault(error)
    print_line({"status": status, "command": command, "data": data, "error": fault})


def styled(text: str, color: str, stream: TextIO) -> str:
    """`text` in a color, where `stream` is a terminal that has colors and nobody asked for none."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in (None, "", "dumb", "unknown")
    return text if plain or not stream.isatty() else click.style(text, fg=color)


def print_error(error: CliError, command: str | None, *, as_json: bool) -> None:
    """An envelope on stdout, or a sentence on stderr."""
    if as_json:
        _print_envelope({"status": "error", "command": command, "data": None, "error": _fault(error)})
    else:
        click.echo(styled("error: ", "red", sys.stderr) + printable(error.message, keep_lines=True), err=True)


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
    click.echo(text.translate(_ESCAPED))


_ESCAPED = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
"""JSON need not escape these, but some of them steer terminals."""


def printable(text: str, *, keep_lines: bool = False) -> str:
    """`text` without control characters: a model's name or a crash log must not steer the terminal. What its
    encoding lacks is "?" here already, so that the width is known."""
    safe = "".join(
        char if char.isprintable() or (keep_lines and char == "\n") else " " if char.isspace() else "?"
        for char in text
    )
    if safe.isascii():
        return safe
    encoding = sys.stdout.encoding or "utf-8"
    return safe.encode(encoding, "replace").decode(encoding, "replace")


def width(text: str) -> int:
    """Terminal cells that `text` takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0
        if unicodedata.category(char) in ("Mn", "Me", "Cf")  # marks on the character before, joiners
        else 2
        if unicodedata.east_asian_width(char) in "WF"
        else 1
        for char in text
    )


def terminal_width() -> int | None:
    """Columns of the terminal that shows the output; None on a pipe or in a file: nothing is cut there."""
    if not sys.stdout.isatty():
        return None
    import shutil

    return shutil.get_terminal_size().columns


def wrap(text: str, indent: str, *, hang: int = 0) -> list[str]:
    """Lines of the terminal's width that begin with `indent`, all but the first with `hang` blanks more; one
    line on a pipe. Names and commands are never broken."""
    columns = terminal_width()
    if columns is None:
        return [indent + text]
    import textwrap

    return textwrap.wrap(
        text,
        max(columns, len(indent) + LEAST_TEXT_CELLS),
        initial_indent=indent,
        subsequent_indent=indent + " " * hang,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [indent]


LEAST_TEXT_CELLS = 12
"""Beside an indentation, in however narrow a terminal: 40 columns are wide enough for all of our pages."""


def shorten(text: str, cells: int) -> str:
    """`text` in so many terminal cells: the middle gives way, since names differ at their ends."""
    if width(text) <= cells:
        return text
    dots = _ellipsis()
    left = max(0, cells - len(dots))
    tail, n_tail = "", 0
    for char in reversed(text):
        if n_tail + width(char) > left // 2:
            break
        tail, n_tail = char + tail, n_tail + width(char)
    while tail and width(tail[0]) == 0:  # a mark without the character that it belongs to
        tail = tail[1:]
    head, n_head = "", 0
    for char in text:
        if n_head + width(char) > left - n_tail:
            break
        head, n_head = head + char, n_head + width(char)
    return head + dots + tail if cells > len(dots) else dots[: max(cells, 0)]


def _ellipsis() -> str:
    return "…" if can_show("…") else "..."


def can_show(ornament: str) -> bool:
    """Whether the terminal has these characters: by its encoding, and not in the C locale, for which Python
    takes UTF-8 whatever the terminal has."""
    locale = next((value for name in ("LC_ALL", "LC_CTYPE", "LANG") if (value := os.environ.get(name))), "")
    if locale in ("C", "POSIX"):
        return False
    try:
        ornament.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def format_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    fit: int | None = None,
    drop: Sequence[str] = (),
    flexible: Sequence[str] = (),
) -> str:
    """Columns two blanks apart, those named in `right` aligned to the right. Written here because `mlxk ps`
    prints one, and importing rich would cost it half as much again.

    `fit`: no line is wider than that many cells (`terminal_width()`; None: as wide as it is). The columns in
    `drop` go first, in that order, until those in `flexible` need not be shorter than LEAST_CELLS.
    """
    lines = [list(head), *([printable(cell) for cell in row] for row in rows)]
    widths = {name: max(width(line[i]) for line in lines) for i, name in enumerate(head)}
    shown = _fit(list(head), widths, fit, drop, flexible) if fit is not None else list(head)

    def pad(cell: str, name: str) -> str:
        cell = shorten(cell, widths[name])
        blanks = " " * (widths[name] - width(cell))
        return blanks + cell if name in right else cell + blanks

    places = [(head.index(name), name) for name in shown]
    return "\n".join("  ".join(pad(line[i], name) for i, name in places).rstrip() for line in lines)


LEAST_CELLS = 32
"""Of a flexible column, while there is another one that can be left out instead."""
_SHORTEST_CELLS = 8


def _fit(
    shown: list[str], widths: dict[str, int], fit: int, drop: Sequence[str], flexible: Sequence[str]
) -> list[str]:
    """The columns that remain. Changes `widths` of the flexible ones."""

    def excess(least: int) -> int:
        cells = (min(widths[name], least) if name in flexible else widths[name] for name in shown)
        return sum(cells) + 2 * (len(shown) - 1) - fit

    for name in drop:
        if excess(LEAST_CELLS) > 0 and name in shown:
            shown.remove(name)
    # The widest flexible column gives way first, one cell at a time: the others keep what they need.
    while excess(1 << 30) > 0:
        widest = max((name for name in flexible if name in shown), key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= max(_SHORTEST_CELLS, width(widest)):
            break
        widths[widest] -= 1
    return shown


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
