"""A few lines of a worker's log for a client's error message: cut, printable, without secrets. Pure but for
reading the environment that the worker shares with us."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

QUOTED_LINES = 8
LINE_CHARS = 200

_TOKENS = re.compile(r"\b(?:hf_|sk-|gh[pousr]_)[A-Za-z0-9_-]{16,}|(?<=[Bb]earer )\S+")
_SECRET_NAMES = re.compile(r"(?:^|_)(?:TOKEN|KEYS?|SECRET|PASSWORD)$")
_MASK = "***"


def quote_log(lines: Iterable[str]) -> str:
    """The last lines, for people who may not be the server's owner."""
    return "\n".join(_clean(line) for line in list(lines)[-QUOTED_LINES:])


def _clean(line: str) -> str:
    for secret in _secrets():
        line = line.replace(secret, _MASK)
    line = _TOKENS.sub(_MASK, line)
    home = os.environ.get("HOME", "")
    if len(home) > 1:
        line = line.replace(str(Path(home)), "~")
    line = "".join(
        char if char.isprintable() or char == " " else " " if char.isspace() else "?" for char in line
    )
    return line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]}…"


def _secrets() -> list[str]:
    """Values of the environment that are named like secrets."""
    values = (value for name, value in os.environ.items() if _SECRET_NAMES.search(name))
    return sorted(
        (part for value in values for part in value.split(",") if len(part) >= 8), key=len, reverse=True
    )
