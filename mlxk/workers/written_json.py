"""JSON as it was written. Python's own reading changes numbers: 1e999 becomes infinity, integers of more than
4,300 digits are an error, and a float keeps 17 digits. A client gets what the model wrote, so here nothing is
read that need not be."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

_BLANKS = re.compile(r"[ \t\n\r]*")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_TEXTS_OF_NUMBERS = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)


def read(text: str) -> Any:
    """The value; its numbers are texts. Raises ValueError (RecursionError) for what is not JSON."""
    return _TEXTS_OF_NUMBERS.decode(text)


def value(text: str, at: int = 0) -> tuple[str, int]:
    """The JSON value that begins at `at`, and the place behind it and its blanks."""
    start = _skip(text, at)
    end = _TEXTS_OF_NUMBERS.raw_decode(text, start)[1]
    return text[start:end], _skip(text, end)


def values(text: str) -> list[str]:
    """JSON values one after the other; those of an array in place of the array."""
    found: list[str] = []
    at = _skip(text, 0)
    while at < len(text):
        one, at = value(text, at)
        found += _parts(one, "]") if one.startswith("[") else [one]
    return found


def members(text: str) -> dict[str, str]:
    """The values of an object, each as it was written."""
    if not text.startswith("{"):
        raise ValueError("no object")
    found: dict[str, str] = {}
    at = _skip(text, 1)
    while text[at] != "}":
        key, at = _TEXTS_OF_NUMBERS.raw_decode(text, at)
        found[key], at = value(text, _skip(text, at) + 1)
        at = _skip(text, at + 1) if text[at] == "," else at
    return found


def _parts(array: str, end: str) -> list[str]:
    found: list[str] = []
    at = _skip(array, 1)
    while array[at] != end:
        one, at = value(array, at)
        found.append(one)
        at = at + 1 if array[at] == "," else at
    return found


def _skip(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return at if blanks is None else blanks.end()


def readable(text: str) -> Any:
    """The value as Python has it; a number that Python cannot hold is its text."""
    return json.loads(text, parse_int=_int_or_text, parse_float=_float_or_text)


def _int_or_text(written: str) -> int | str:
    try:
        return int(written)
    except ValueError:  # more than 4,300 digits
        return written


def _float_or_text(written: str) -> float | str:
    number = float(written)
    return number if abs(number) != float("inf") else written


def encodable(text: str) -> str:
    """JSON text without halves of surrogate pairs, which no UTF-8 can say: as escapes they may stand."""
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)


# ------------------------------------------------------------------- numbers in other texts

_NUMBER = re.compile(r"(?<![\w.+-])-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.])")


class Numbers:
    """Stands in for the numbers of a text that Python would write in another way, while a parser reads it:
    with a small number that all parsers read and write alike."""

    def __init__(self, text: str, *, by_value: bool) -> None:
        """`by_value`: the parser turns numbers into the type that a schema wants (5.0 into 5), so only those
        are hidden whose value would be another."""
        self._is_safe = _keeps_value if by_value else _keeps_text
        prefix = 731_862_954
        while str(prefix) in text:
            prefix += 1
        self._prefix = str(prefix)
        self._hidden: list[str] = []
        self.text = _NUMBER.sub(self._hide, text)
        """To be read in place of the text."""

    def _hide(self, number: re.Match[str]) -> str:
        if self._is_safe(number[0]):
            return number[0]
        self._hidden.append(number[0])
        if len(self._hidden) > _MOST_NUMBERS:
            raise ValueError("too many numbers")
        return f"{self._prefix}{len(self._hidden) - 1:06}"

    def show(self, text: str) -> str:
        """What the parser made of it, with the numbers as they were."""
        if not self._hidden:
            return text
        return re.sub(self._prefix + "([0-9]{6})", lambda found: self._hidden[int(found[1])], text)


_MOST_NUMBERS = 1_000_000


def _keeps_text(number: str) -> bool:
    if len(number) <= 15 and number.isdigit():
        return True
    try:
        return json.dumps(json.loads(number)) == number
    except ValueError:
        return False


def _keeps_value(number: str) -> bool:
    """Also on its way through a double, whose shortest text is its value here."""
    if len(number) <= 15 and "e" not in number.lower():
        return True
    try:
        return len(number) <= 400 and Decimal(repr(float(number))) == Decimal(number)
    except ArithmeticError:
        return False
