"""A question to the person at the terminal."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
from collections.abc import Iterator

import click


def agreed(question: str) -> bool:
    """Whether the answer is yes; an empty one, or the end of the input, is no. A Ctrl-C is raised.

    Not `click.confirm`, whose `input` loses a Ctrl-C that comes between its last look at signals and its
    read: the question then stands there as if nobody had pressed it.
    """
    while True:
        click.echo(f"{question} [y/N]: ", nl=False, err=True)
        answer = _line()
        if answer is None:
            click.echo(err=True)
            return False
        match answer.strip().lower():
            case "y" | "yes":
                return True
            case "" | "n" | "no":
                return False
        click.echo("please answer y or n", err=True)


def _line() -> str | None:
    """None at the end of the input."""
    with contextlib.suppress(io.UnsupportedOperation), _told_of_signals() as signals:  # a stream in memory
        descriptor = sys.stdin.fileno()
        while descriptor not in select.select([descriptor, signals], [], [])[0]:
            os.read(signals, 64)  # not a Ctrl-C, which would have been raised before this
    return sys.stdin.readline() or None


@contextlib.contextmanager
def _told_of_signals() -> Iterator[int]:
    """A descriptor that can be read as soon as a signal has come: unlike the interruption of a wait, that
    cannot be missed."""
    out, into = os.pipe()
    os.set_blocking(into, False)
    before = signal.set_wakeup_fd(into)  # the main thread's, as all that verbs do
    try:
        yield out
    finally:
        signal.set_wakeup_fd(before)
        os.close(out)
        os.close(into)
