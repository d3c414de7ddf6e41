"""What a reload changes: the difference of two settings, and what of it takes effect at once. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

from mlxk.config.fields import MODEL_FIELDS, SERVER_FIELDS, Effect
from mlxk.config.model_settings import ModelSettings
from mlxk.config.settings import Settings

FIXED = frozenset(one.name for one in SERVER_FIELDS if one.effect is Effect.RESTART)
"""Settings that a server keeps until it is restarted: its socket and its doors are built on them."""
NEXT_LOAD = frozenset(one.name for one in SERVER_FIELDS if one.effect is Effect.NEXT_LOAD)
"""Settings that a model gets when it is loaded: those that run keep what they have."""
_NO_SETTINGS = frozenset({"models", "sources"})


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of settings and of models, sorted."""

    applied: tuple[str, ...] = ()
    """In effect from now on."""
    next_load: tuple[str, ...] = ()
    """In effect for models that are loaded from now on."""
    needs_restart: tuple[str, ...] = ()
    """Only `mlxk restart` brings these into effect."""
    models: tuple[str, ...] = ()
    """Their tables have changed, were added or removed."""
    models_to_restart: tuple[str, ...] = ()
    """Of these, where the change is one that only a new process can take up."""
    models_to_load: tuple[str, ...] = ()
    """Preloaded now and not before."""


def compare(old: Settings, new: Settings) -> Changes:
    names = {one.name for one in fields(Settings)} - _NO_SETTINGS
    changed = {name for name in names if getattr(old, name) != getattr(new, name)}
    models = sorted(
        name for name in old.models.keys() | new.models.keys() if old.models.get(name) != new.models.get(name)
    )
    return Changes(
        applied=_as_written(changed - FIXED - NEXT_LOAD),
        next_load=(*_as_written(changed & NEXT_LOAD), *_of_models(old, new, models)),
        needs_restart=_as_written(changed & FIXED),
        models=tuple(models),
        models_to_restart=tuple(
            name for name in models if _what_it_loads(old, name) != _what_it_loads(new, name)
        ),
        models_to_load=tuple(name for name in new.preloaded() if name not in old.preloaded()),
    )


def _as_written(names: set[str]) -> tuple[str, ...]:
    """As people write them in the file: without the unit."""
    return tuple(sorted(one.key for one in SERVER_FIELDS if one.name in names))


def _of_models(old: Settings, new: Settings, names: Iterable[str]) -> Iterator[str]:
    """What has changed of these models' tables and waits for their next load."""
    for name in names:
        before, after = (one.models.get(name, ModelSettings(name)) for one in (old, new))
        for one in MODEL_FIELDS:
            if one.effect is Effect.NEXT_LOAD and getattr(before, one.name) != getattr(after, one.name):
                yield f"{one.key} of {name}"


def effective(old: Settings, new: Settings) -> Settings:
    """`new`, but for what stays as it is until a restart."""
    return replace(new, **{name: getattr(old, name) for name in FIXED})


def _what_it_loads(settings: Settings, name: str) -> list[object]:
    """Of the model's table, what only a new process can take up."""
    own = settings.models.get(name, ModelSettings(name))
    return [getattr(own, one.name) for one in MODEL_FIELDS if one.effect is Effect.NEW_PROCESS]
