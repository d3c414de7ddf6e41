"""From the configuration file's tables to values: strict about what it does not know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlxk.config.errors import Mistake, shown
from mlxk.config.fields import LONGEST_NAME, MODEL_FIELDS, SERVER_FIELDS, Field
from mlxk.config.model_settings import ModelSettings
from mlxk.config.paths import absolute

if TYPE_CHECKING:
    from mlxk.config.toml_file import TomlFile

Layer = dict[str, tuple[Any, str]]
"""Name of a setting -> its value and where that comes from."""


def from_file(file: TomlFile | None, mistakes: list[Mistake]) -> Layer:
    """What it says, but for what is wrong in it: that goes to `mistakes`, in the order of the lines."""
    if file is None:
        return {}
    found: list[Mistake] = []
    for key in file.data:
        if key not in ("server", "models"):
            belongs = key in {one.key for one in SERVER_FIELDS}
            hint = "it belongs in the [server] table" if belongs else _nearest_hint(key, ("server", "models"))
            found.append(file.mistake((), key, f"this key is not known here; {hint}"))
    layer: Layer = {}
    for name, value in _read_table(file, ("server",), SERVER_FIELDS, found).items():
        layer[name] = (value, file.path.name)
    if "models" in file.data:
        layer["models"] = (_read_models(file, found), file.path.name)
    mistakes += sorted(found, key=lambda one: one.line or 0)
    return layer


def _read_models(file: TomlFile, mistakes: list[Mistake]) -> dict[str, ModelSettings]:
    tables = file.data["models"]
    if not isinstance(tables, dict):
        mistakes.append(file.mistake((), "models", 'write one table per model: [models."NAME"]'))
        return {}
    models: dict[str, ModelSettings] = {}
    for name in tables:
        place = ("models", name)
        if not name.strip() or len(name) > LONGEST_NAME or name[0] in "/~" or ".." in name:
            problem = "cannot be a model's name: write one without ~ or .., not starting with a slash"
            mistakes.append(file.mistake(place, None, f"{shown(name)} {problem}"))
        values = _read_table(file, place, MODEL_FIELDS, mistakes)
        if "path" in values and "id" in values:
            problem = "path and id exclude each other; keep the one that is meant"
            mistakes.append(file.mistake(place, "id", problem))
        model = ModelSettings(name=name, **values)
        models[name] = replace(model, id=None) if model.id == name else model
    return models


def _read_table(
    file: TomlFile, place: tuple[str, ...], fields: tuple[Field, ...], mistakes: list[Mistake]
) -> dict[str, Any]:
    """The values of a table by their names in the dataclass. An absent table is an empty one."""
    table: Any = file.data
    for part in place:
        table = table.get(part, {})
    if not isinstance(table, dict):
        mistakes.append(file.mistake(place[:-1], place[-1], "this must be a table of name = value pairs"))
        return {}
    by_key = {one.key: one for one in fields}
    values: dict[str, Any] = {}
    for key, raw in table.items():
        if key not in by_key:
            mistakes.append(file.mistake(place, key, _unknown_key(place, key, raw, by_key)))
            continue
        try:
            value = by_key[key].parse(raw)
        except ValueError as error:
            mistakes.append(file.mistake(place, key, str(error)))
            continue
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
