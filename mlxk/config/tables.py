"""From the configuration file's tables to values: strict about what it does not know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlxk.config.errors import shown
from mlxk.config.fields import LONGEST_NAME, MODEL_FIELDS, SERVER_FIELDS, Field
from mlxk.config.model_settings import ModelSettings
from mlxk.config.paths import absolute

if TYPE_CHECKING:
    from mlxk.config.toml_file import TomlFile

Layer = dict[str, tuple[Any, str]]
"""Name of a setting -> its value and where that comes from."""


def from_file(file: TomlFile | None) -> Layer:
    """Raises ConfigError with file, line and key."""
    if file is None:
        return {}
    for key in file.data:
        if key not in ("server", "models"):
            belongs = key in {one.key for one in SERVER_FIELDS}
            hint = "it belongs in the [server] table" if belongs else _nearest_hint(key, ("server", "models"))
            raise file.error((), key, f"this key is not known here; {hint}")
    layer: Layer = {}
    for name, value in _read_table(file, ("server",), SERVER_FIELDS).items():
        layer[name] = (value, file.path.name)
    if "models" in file.data:
        layer["models"] = (_read_models(file), file.path.name)
    return layer


def _read_models(file: TomlFile) -> dict[str, ModelSettings]:
    tables = file.data["models"]
    if not isinstance(tables, dict):
        raise file.error((), "models", 'write one table per model: [models."NAME"]')
    models: dict[str, ModelSettings] = {}
    for name in tables:
        place = ("models", name)
        if not name.strip() or len(name) > LONGEST_NAME or name[0] in "/~" or ".." in name:
            problem = "cannot be a model's name: write one without ~ or .., not starting with a slash"
            raise file.error(place, None, f"{shown(name)} {problem}")
        values = _read_table(file, place, MODEL_FIELDS)
        if "path" in values and "id" in values:
            raise file.error(place, "id", "path and id exclude each other; keep the one that is meant")
        model = ModelSettings(name=name, **values)
        models[name] = replace(model, id=None) if model.id == name else model
    return models


def _read_table(file: TomlFile, place: tuple[str, ...], fields: tuple[Field, ...]) -> dict[str, Any]:
    """The values of a table by their names in the dataclass. An absent table is an empty one."""
    table: Any = file.data
    for part in place:
        table = table.get(part, {})
    if not isinstance(table, dict):
        raise file.error(place[:-1], place[-1], "this must be a table of name = value pairs")
    by_key = {one.key: one for one in fields}
    values: dict[str, Any] = {}
    for key, raw in table.items():
        if key not in by_key:
            raise file.error(place, key, _unknown_key(place, key, raw, by_key))
        try:
            value = by_key[key].parse(raw)
        except ValueError as error:
            raise file.error(place, key, str(error)) from None
        if key in ("path", "api_key_file"):
            value = str(absolute(value, base=file.path.parent))
        values[by_key[key].name] = value
    return values


def _unknown_key(place: tuple[str, ...], key: str, raw: Any, known: Iterable[str]) -> str:
    if len(place) == 2 and isinstance(raw, dict):
        # [models.qwen2.5] is TOML for the key 5 in models.qwen2
        name = f"{place[1]}.{key}"
        return f'this key is not known; if the model is called {name}, quote it: [models."{name}"]'
    return f"this key is not known; {_nearest_hint(key, known)}"


def _nearest_hint(key: str, known: Iterable[str]) -> str:
    import difflib  # only on the way out

    known = sorted(known)
    longer = [one for one in known if len(key) > 2 and one.startswith(key)]
    if nearest := longer or difflib.get_close_matches(key, known, n=1):
        return f"did you mean {nearest[0]}?"
    return f"known are {', '.join(known)}"
