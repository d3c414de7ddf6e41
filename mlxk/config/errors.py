"""What goes wrong with a configuration, and how a wrong value is quoted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Mistake(NamedTuple):
    """One thing that is wrong."""

    message: str
    """Names its place, what is wrong, and what to write instead."""
    place: str | None = None
    """FILE:LINE, the variable, or the flag."""
    file: str | None = None
    line: int | None = None
    table: str | None = None
    """As it is written: `models."org/name"`."""
    key: str | None = None


class ConfigError(Exception):
    """Settings that cannot be used: all that is wrong with them, as far as it can be seen at once."""

    def __init__(self, *mistakes: Mistake | str) -> None:
        self.mistakes = tuple(Mistake(one) if isinstance(one, str) else one for one in mistakes)
        super().__init__(_told(self.mistakes))

    def as_data(self) -> dict[str, list[dict[str, object]]]:
        """For the `error` of a JSON envelope."""
        return {"mistakes": [one._asdict() for one in self.mistakes]}


def _told(mistakes: Sequence[Mistake]) -> str:
    if len(mistakes) == 1:
        return mistakes[0].message
    return "\n  ".join([f"{len(mistakes)} mistakes in the settings:", *(one.message for one in mistakes)])


def shown(value: object) -> str:
    """A value in quotes, shortened: it may be anything that somebody sent."""
    text = value if isinstance(value, str) else repr(value)
    return f"'{text[:60]}…'" if len(text) > 60 else f"'{text}'"
