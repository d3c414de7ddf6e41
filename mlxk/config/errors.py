"""What goes wrong with a configuration, and how a wrong value is quoted."""

from __future__ import annotations


class ConfigError(Exception):
    """A setting that cannot be used: the message names its source, what is wrong, what to write instead."""


def shown(value: object) -> str:
    """A value in quotes, shortened: it may be anything that somebody sent."""
    text = value if isinstance(value, str) else repr(value)
    return f"'{text[:60]}…'" if len(text) > 60 else f"'{text}'"
