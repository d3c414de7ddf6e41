"""What in the configuration is no mistake for its reader, and still means nothing: `mlxk config check`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxk.config.settings import Settings
    from mlxk.config.toml_file import TomlFile

SMALLEST_MEMORY_BYTES = 64_000_000
"""Below, no process of a model starts: Python and MLX alone take more."""


def configuration_warnings(settings: Settings, file: TomlFile | None) -> list[str]:
    """Each begins with the variable, or FILE:LINE, where that is known."""
    from mlxk.config.variables import unknown_variables

    return [
        *map(str, unknown_variables()),
        *_too_little_memory(settings, file),
        *_tables_without_model(settings, file),
        *_unusable_names(settings, file),
    ]


def _too_little_memory(settings: Settings, file: TomlFile | None) -> Iterator[str]:
    from mlxk.config.units import exact_size, format_size

    n_bytes = settings.max_memory_bytes
    if n_bytes is None or n_bytes >= SMALLEST_MEMORY_BYTES:
        return
    digits = exact_size(n_bytes).rstrip("KMGTiB")
    meant = f"; did you mean {digits}GB?" if n_bytes else ""
    place = _server_place(settings, file, "max_memory")
    yield f"{place}max_memory is {format_size(n_bytes)}, in which no model has room{meant}"


def _tables_without_model(settings: Settings, file: TomlFile | None) -> Iterator[str]:
    """Tables that are about no model and no alias: a name is not quite right, maybe."""
    about = [name for name, own in settings.models.items() if own.path is None and own.id is None]
    if not about:
        return
    from mlxk.store.catalog import Catalog
    from mlxk.store.errors import StoreError

    catalog = Catalog(settings)
    for name in about:
        place = _place(file, ("models", name), None)
        try:
            meant = catalog.locate(name).name
        except StoreError:
            yield f"{place}the table of {name} has no effect: no model of this name is installed"
            continue
        if meant != name:
            yield (
                f"{place}the table of {name} has no effect: the model is called {meant}, name the table so"
            )


def _unusable_names(settings: Settings, file: TomlFile | None) -> Iterator[str]:
    """Models that are to be loaded, and aliases, that cannot be."""
    from mlxk.cli.names import unusable_names

    aliases = [name for name, own in settings.models.items() if own.path is not None or own.id is not None]
    for name, error in unusable_names(dict.fromkeys([*settings.preloaded(), *aliases]), settings):
        if name in settings.preload:
            place = _server_place(settings, file, "preload")
        elif (own := settings.models[name]).path is None and own.id is None:
            continue  # `preload` in a table without a model: that has been told
        else:
            place = _place(file, ("models", name), "path" if own.path is not None else "id")
        yield f"{place}{error.message}"


def _server_place(settings: Settings, file: TomlFile | None, key: str) -> str:
    name = {"max_memory": "max_memory_bytes"}.get(key, key)
    source = settings.sources.get(name, "default")
    return f"{source}: " if source.startswith("MLXK_") else _place(file, ("server",), key)


def _place(file: TomlFile | None, table: tuple[str, ...], key: str | None) -> str:
    if file is None:
        return ""
    line = (file.line(table, key) if key else None) or file.line(table, None)
    return f"{file.path}:{line}: " if line else f"{file.path}: "
