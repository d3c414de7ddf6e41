"""Values as they are written in the configuration file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mlxk.config.fields import Field
from mlxk.config.units import exact_duration, exact_size

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(one: Field, value: Any) -> str | None:
    """The setting's value as TOML that reads as the same; None where only the key's absence says it."""
    if one.name.endswith("_bytes"):
        return '"auto"' if value is None else f'"{exact_size(value)}"'
    if value is None:
        return None
    if one.name.endswith("_s"):
        text = exact_duration(value)
        return text if text in ("-1", "0") else f'"{text}"'
    return _toml(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's text is TOML's, but for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{quoted_key(name)} = {_toml(one)}" for name, one in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(one) for one in value)}]"
    if isinstance(value, float):
        return repr(value)
    return str(value)


def quoted_key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _toml(name)
