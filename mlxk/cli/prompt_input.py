"""The prompt of a single shot: the words of the command line, the standard input, or both."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from mlxk.cli.errors import CliError
from mlxk.cli.output import note

STDIN = "-"
PATIENCE_S = 5.0
"""How long a pipe may stay silent when there is a PROMPT already. Cron, a CI runner and `spawn` of Node.js
hand down pipes that never say anything and never end: a script must not hang on them."""
MAX_STDIN_BYTES = 64 * 1024 * 1024
"""Far more than fits any context; `< /dev/zero` must not eat the memory."""


def read_prompt(words: Sequence[str], *, keep_last_newline: bool) -> str:
    """The words with blanks between, and the standard input where `-` is, or at the end if something is
    piped in.

    Raises UsageError if there is nothing to ask.
    """
    if STDIN in words:
        place = words.index(STDIN)
        parts = [" ".join(words[:place]), _read(keep_last_newline), " ".join(words[place + 1 :])]
    elif words:
        parts = [" ".join(words), _read(keep_last_newline) if _is_something_piped_in() else ""]
    else:
        parts = [_read(keep_last_newline)]
    prompt = "\n\n".join(readable(part) for part in parts if part.strip())
    if not prompt:
        _refuse("the prompt is empty" if words and STDIN not in words else "the standard input is empty")
    return prompt


def readable(text: str) -> str:
    """Without the halves of characters that Python puts in the place of bytes that are no text."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _is_something_piped_in() -> bool:
    """A file, or a pipe that begins to speak (or ends) in time; never a terminal or another device."""
    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or none at all
        return False
    if stat.S_ISREG(mode):
        return True
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return False
    if select.select([descriptor], [], [], PATIENCE_S)[0]:
        return True
    note(
        f"note: the standard input is a pipe that said nothing for {PATIENCE_S:g} s, and is left out. "
        "To wait for it, end the command with -; to do without it at once, add < /dev/null"
    )
    return False


def _read(keep_last_newline: bool) -> str:
    if sys.stdin is None:
        _refuse("the standard input is closed")
    try:
        data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    except OSError as error:
        raise CliError("os_error", f"the standard input cannot be read: {error.strerror}") from error
    if len(data) > MAX_STDIN_BYTES:
        _refuse(f"the standard input is longer than {MAX_STDIN_BYTES // 2**20} MiB")
    text = _decode(data)
    # `echo` ends its text with a line end that nobody meant for a chat; a raw prompt may need its own.
    return text if keep_last_newline else text.removesuffix("\n").removesuffix("\r")


def _decode(data: bytes) -> str:
    """UTF-8, and if it is not, what the locale says; no byte is a reason to give up."""
    for encoding in ("utf-8-sig", sys.stdin.encoding or "utf-8"):
        try:
            return data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("utf-8", "replace")


def _refuse(problem: str) -> NoReturn:
    raise click.UsageError(
        f'{problem}. Give a prompt: mlxk run MODEL "PROMPT", or echo PROMPT | mlxk run MODEL',
        click.get_current_context(silent=True),
    )
