"""The effective settings one by one, each with the place that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from mlxk.config.fields import MODEL_FIELDS, SERVER_FIELDS, Field
from mlxk.config.model_settings import ModelSettings
from mlxk.config.settings import Settings
from mlxk.config.written import as_toml

if TYPE_CHECKING:
    from mlxk.config.toml_file import TomlFile


class Origin(StrEnum):
    FLAG = "flag"
    VARIABLE = "variable"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting. A secret is left out of `value` and `written`."""

    name: str
    """With its unit: seconds, bytes."""
    key: str
    value: Any
    written: str | None
    """As TOML; None: not set."""
    origin: Origin
    place: str | None
    """The variable, or FILE:LINE."""


def server_entries(settings: Settings, file: TomlFile | None) -> list[Entry]:
    return [_server_entry(one, settings, file) for one in SERVER_FIELDS]


def model_entries(settings: Settings, file: TomlFile | None) -> dict[str, list[Entry]]:
    """Of each model only what its table says."""
    found: dict[str, list[Entry]] = {}
    for name, own in settings.models.items():
        said: Mapping[str, Any] = file.data["models"][name] if file is not None else {}
        found[name] = [_model_entry(one, own, file) for one in MODEL_FIELDS if one.key in said]
    return found


def origin_of(source: str) -> Origin:
    """Of a word in `Settings.sources`."""
    if source in (Origin.FLAG, Origin.DEFAULT):
        return Origin(source)
    return Origin.VARIABLE if source.startswith("MLXK_") else Origin.FILE


def hidden(name: str, value: Any) -> Any:
    """A setting's value without what may be secret: a worker's variables may hold tokens."""
    return dict.fromkeys(value, "***") if name == "environment" else value


def _server_entry(one: Field, settings: Settings, file: TomlFile | None) -> Entry:
    value, source = getattr(settings, one.name), settings.sources.get(one.name, "default")
    origin = origin_of(source)
    place: str | None = None
    if origin is Origin.VARIABLE:
        place = source
    elif origin is Origin.FILE:
        place = _place(file, ("server",), one.key) or source
    return Entry(one.name, one.key, _plain(value), as_toml(one, value), origin, place)


def _model_entry(one: Field, own: ModelSettings, file: TomlFile | None) -> Entry:
    value = hidden(one.name, getattr(own, one.name))
    place = _place(file, ("models", own.name), one.key)
    return Entry(one.name, one.key, _plain(value), as_toml(one, value), Origin.FILE, place)


def _place(file: TomlFile | None, table: tuple[str, ...], key: str) -> str | None:
    if file is None:
        return None
    line = file.line(table, key) or file.line(table, None)
    return f"{file.path}:{line}" if line else str(file.path)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
