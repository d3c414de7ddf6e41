"""Looking a model up on disk, for verbs that work without a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlxk.cli.errors import CliError

if TYPE_CHECKING:
    from mlxk.config.settings import Settings
    from mlxk.store.catalog import Catalog, ModelRef


def resolve_model(name: str, settings: Settings | None = None) -> ModelRef:
    """The installed model of that name. Raises CliError (unknown, ambiguous, unhealthy)."""
    from mlxk.store.catalog import Catalog

    with _look_up_errors(name):
        return Catalog(settings or read_settings()).resolve(name)


def locate_model(name: str, catalog: Catalog) -> ModelRef:
    """Like `resolve_model`, also for a model that is broken: to look at it. Raises CliError."""
    with _look_up_errors(name):
        return catalog.locate(name)


def unusable_names(names: Iterable[str], settings: Settings) -> Iterator[tuple[str, CliError]]:
    """Of these names of the configuration those that no usable model has."""
    for name in names:
        try:
            resolve_model(name, settings)
        except CliError as error:
            yield name, error


@contextmanager
def _look_up_errors(name: str) -> Iterator[None]:
    from mlxk.store.errors import AmbiguousModelError, StoreError, UnhealthyModelError, UnknownModelError

    details: dict[str, Any]
    try:
        yield
    except UnknownModelError as error:
        details = {"model": name, "nearest": list(error.nearest)}
        raise CliError("model_not_found", str(error), details) from error
    except AmbiguousModelError as error:
        details = {"model": name, "matches": list(error.matches)}
        raise CliError("ambiguous_model", str(error), details) from error
    except UnhealthyModelError as error:
        details = {"model": error.name, "reason": error.reason}
        raise CliError("model_unhealthy", str(error), details) from error
    except StoreError as error:
        raise CliError("store_error", str(error)) from error


def read_settings(flags: dict[str, object] | None = None, *, config: str | None = None) -> Settings:
    """The effective settings. Raises CliError if the configuration is wrong."""
    from pathlib import Path

    from mlxk.config.settings import ConfigError, load_settings

    try:
        return load_settings(flags, config_path=Path(config) if config else None)
    except ConfigError as error:
        raise CliError("config_error", str(error), error.as_data()) from error
