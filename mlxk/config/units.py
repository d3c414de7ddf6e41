"""Sizes, durations and times as people write and read them. Pure functions."""

from __future__ import annotations

import math
import re
import time

from mlxk.config.errors import shown

_SIZE = re.compile(r"([0-9]+)(?:\.([0-9]+))?\s*([a-z]*)", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _SIZE_UNITS |= {_letter: 1000**_power, f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d)")
_DURATION_UNITS_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_LONGEST_TEXT = 64
"""Nothing sensible is longer; it keeps a hostile `keep_alive` from costing anything."""

_FOREVER_FROM_S = 100 * 365 * 86400.0
"""Longer is shown as "forever": a `keep_alive` of 1e99 would fill a screen with digits."""
FOREVER_S = -1.0
"""How `parse_duration_s` writes "forever"."""


def parse_size(text: str | int) -> int:
    """Bytes of "8GB" (decimal), "512MiB", "1.5 GiB" (binary), "123" or 123.

    Raises ValueError, which says what is accepted.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    if isinstance(text, str) and len(text) <= _LONGEST_TEXT:
        match = _SIZE.fullmatch(text.strip())
        if match and (unit := _SIZE_UNITS.get(match[3].lower())):
            fraction = match[2] or ""
            # Whole numbers throughout: a float would lose bytes above 2**53.
            scale: int = 10 ** len(fraction)
            return int(match[1] + fraction) * unit // scale
    raise ValueError(
        f"{shown(text)} is not a size: write a whole number of bytes, or a number with KB, MB, GB, TB "
        "(decimal) or KiB, MiB, GiB, TiB (binary), such as 8GB or 1.5GiB"
    )


def parse_duration_s(text: str | int | float) -> float:
    """Seconds of "10m", "1h30m", "90" or 90. Anything negative means forever and gives -1.0; 0 is 0.

    Ollama's grammar for `keep_alive`: a plain number is seconds; units are ns, us, ms, s, m, h; we add d
    and the word "forever". Raises ValueError, which says what is accepted.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        seconds = _to_float(text)
    elif isinstance(text, str) and len(text) <= _LONGEST_TEXT:
        seconds = _parse_duration_text(text.strip())
    else:
        seconds = None
    if seconds is None or not math.isfinite(seconds):
        raise ValueError(
            f"{shown(text)} is not a duration: write seconds (90), or numbers with units (30s, 10m, 1h30m, "
            "2d), or -1 for forever"
        )
    return FOREVER_S if seconds < 0 else seconds + 0.0  # no -0.0


def _parse_duration_text(text: str) -> float | None:
    if text.lower() == "forever":
        return FOREVER_S
    sign = -1.0 if text.startswith("-") else 1.0
    digits = text[1:] if text[:1] in ("-", "+") else text
    if _NUMBER.fullmatch(digits):
        return sign * float(digits)
    seconds, at = 0.0, 0
    for part in _DURATION_PART.finditer(digits):
        if part.start() != at:
            return None
        seconds += float(part[1]) * _DURATION_UNITS_S[part[2]]
        at = part.end()
    return sign * seconds if at and at == len(digits) else None


def _to_float(number: int | float) -> float | None:
    try:
        return float(number)
    except OverflowError:  # an int of hundreds of digits
        return None


def format_size(n_bytes: int) -> str:
    """ "1.8 MB", "512 MB", "17.2 GB": decimal units, as macOS and the hub show them."""
    if n_bytes < 1000:
        return f"{n_bytes} B"
    amount = float(n_bytes)
    for unit in ("KB", "MB", "GB", "TB"):
        amount /= 1000
        if amount < 999.5 or unit == "TB":  # 999.5 would be shown as "1000"
            break
    return f"{amount:.1f} {unit}" if amount < 99.95 else f"{amount:.0f} {unit}"


def format_duration(seconds: float) -> str:
    """ "45s", "4m", "2h", "3d", rounded down; "forever" for a negative one or one of a hundred years."""
    if not 0 <= seconds < _FOREVER_FROM_S:
        return "forever"
    for unit, length_s, limit in (("s", 1, 60), ("m", 60, 60), ("h", 3600, 48)):
        if seconds < length_s * limit:
            return f"{int(seconds // length_s)}{unit}"
    return f"{int(seconds // 86400)}d"


def format_time(unix_s: float, *, digits: int = 0) -> str:
    """ "2026-11-21T11:32:47Z", or with `digits` 3 "2026-11-21T11:32:47.123Z": UTC, as in all that mlxk prints
    and logs (docs/decisions/0025-screens-and-times.md)."""
    whole, part = divmod(math.floor((unix_s + 5e-7) * 10**digits), 10**digits)  # as floats are
    fraction = f".{part:0{digits}d}" if digits else ""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}{fraction}Z"


def exact_size(n_bytes: int) -> str:
    """ "32MiB", "24GB", "1001": in the largest unit that loses nothing; `parse_size` reads it back."""
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        for base, unit in ((1000, f"{letter}B"), (1024, f"{letter}iB")):
            if n_bytes and n_bytes % base**power == 0:
                return f"{n_bytes // base**power}{unit}"
    return str(n_bytes)


def exact_duration(seconds: float) -> str:
    """ "10m", "1h30m", "0.25s", "-1": so that `parse_duration_s` reads it back."""
    if seconds < 0 or seconds >= _FOREVER_FROM_S:
        return "-1"
    if seconds != int(seconds):
        return f"{seconds:.9f}".rstrip("0") + "s"
    if seconds == 0:
        return "0"
    parts, left = "", int(seconds)
    for unit, length_s in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length_s)
        parts += f"{count}{unit}" if count else ""
    return parts
