"""The settings of a server, and where each came from.

Precedence: flags, then MLXK_* variables, then the configuration file, then the defaults here.
Kept light on purpose: every verb of the command line reads the settings, also `mlxk ps`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxk.config.errors import ConfigError, shown
from mlxk.config.fields import LONGEST_NAME, MODEL_FIELDS, SERVER_FIELDS, Field
from mlxk.config.paths import absolute
from mlxk.config.paths import config_file as default_config_file

if TYPE_CHECKING:
    from mlxk.config.toml_file import TomlFile

__all__ = ["ConfigError", "ModelSettings", "Settings", "load_settings"]


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What `[models."NAME"]` says. With `path` or `id` NAME is an alias; without, this is about a model."""

    name: str
    path: str | None = None
    """Absolute path of a model's folder."""
    id: str | None = None
    """Another model's name."""
    pinned: bool = False
    preload: bool = False
    keep_alive_s: float | None = None
    """None: the server's. Negative: forever."""
    context_length: int | None = None
    trust_remote_code: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """All that can be set. Sizes in bytes, durations in seconds. (A docstring also makes a dataclass cheap:
    without one, its making calls inspect.signature, which took half of this module's import time.)"""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free one."""
    max_memory_bytes: int | None = None
    """For all models together. None: decided from the machine."""
    max_models: int = 0
    """Loaded at once. 0: no limit of number."""
    keep_alive_s: float = 600.0
    """How long an idle model stays loaded. Negative: forever."""
    drain_timeout_s: float = 30.0
    stop_grace_s: float = 10.0
    abort_grace_s: float = 30.0
    start_timeout_s: float = 60.0
    load_stall_s: float = 120.0
    """No progress for so long: the load is stuck."""
    pong_timeout_s: float = 15.0
    """No answer for so long: the whole process is stuck or stopped. Its I/O thread answers within
    milliseconds, but an import or a collection that holds the interpreter may delay it."""
    max_wait_s: float = 300.0
    """How long a request may wait for others: for a place in a batch, for room. Its own load does not count.
    0: refused at once where it would have to."""
    swap_after_s: float = 30.0
    """Who waits for room for so long gets that of a busy model, which finishes first. Negative: never."""
    request_timeout_s: float = 0.0
    """How long a request may take as a whole, its waiting and its model's load included. 0: as it needs."""
    receive_timeout_s: float = 30.0
    """A client may take so long to send a request's head, and so long with hardly any of its body coming."""
    send_timeout_s: float = 60.0
    """A client that takes nothing of its answer for so long is taken for gone."""
    queue_per_model: int = 128
    queue_total: int = 512
    max_batch: int = 64
    cache_bytes: int | None = None
    """Budget of one model's prefix cache. None: decided from the machine."""
    max_body_bytes: int = 32 * 1024 * 1024
    chat_stop_strings: tuple[str, ...] = ("\nHuman:", "\nAssistant:", "\nUser:", "\nYou:")
    log_level: str = "info"
    log_json: bool = False
    api_key_file: str | None = None
    no_auth: bool = False
    cors_origins: tuple[str, ...] = ()
    """Web pages, extensions and apps that may use this server from a browser. "*": all of them."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that this server answers to, beside those of its machine: behind a proxy, in a network."""
    engine: str = "mlx"
    """ "mlx", or "fake" in tests."""
    spare: bool = True
    preload: tuple[str, ...] = ()
    models: Mapping[str, ModelSettings] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    """Name of a setting -> "flag", a variable: "MLXK_PORT", "config.toml" (the file's name) or "default"."""

    def preloaded(self) -> tuple[str, ...]:
        """All models to load at start: `preload`, then those whose table says so."""
        marked = (model.name for model in self.models.values() if model.preload)
        return tuple(dict.fromkeys((*self.preload, *marked)))


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    config_path: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The effective settings.

    `flags` are named like the settings, with or without the unit ("max_memory" or "max_memory_bytes"); None
    or () means not given. `config_path` and $MLXK_CONFIG must exist; the default file need not.
    Raises ConfigError.
    """
    environ = os.environ if environ is None else environ
    file = _read_config(config_path, environ)
    values: dict[str, Any] = {}
    sources = {one.name: "default" for one in SERVER_FIELDS} | {"models": "default"}
    for layer in (_from_file(file), _from_environ(environ), _from_flags(flags or {})):
        for name, (value, source) in layer.items():
            values[name], sources[name] = value, source
    return Settings(**values, sources=sources)


_Layer = dict[str, tuple[Any, str]]


def _read_config(config_path: Path | None, environ: Mapping[str, str]) -> TomlFile | None:
    path = absolute(config_path) if config_path else default_config_file(environ)
    if _may_exist(path):
        from mlxk.config.toml_file import read_toml  # costs some ms: only where there is a file

        return read_toml(path)
    if config_path is None and not environ.get("MLXK_CONFIG"):
        return None
    asked_by = "--config" if config_path else "MLXK_CONFIG"
    raise ConfigError(f"{asked_by}: there is no file {path}; create it, or name another")


def _may_exist(path: Path) -> bool:
    """Also if we are not allowed to look: to go on without the file would be to ignore it silently."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def _from_flags(flags: Mapping[str, Any]) -> _Layer:
    by_name = {one.name: one for one in SERVER_FIELDS} | {one.key: one for one in SERVER_FIELDS}
    layer: _Layer = {}
    for name, raw in flags.items():
        if name not in by_name:
            raise TypeError(f"load_settings() knows no flag {name!r}")
        if raw is not None and raw != ():
            one = by_name[name]
            layer[one.name] = (_parse(one, raw, f"--{one.key.replace('_', '-')}"), "flag")
    return layer


def _from_environ(environ: Mapping[str, str]) -> _Layer:
    layer: _Layer = {}
    for one in SERVER_FIELDS:
        variable = f"MLXK_{one.key.upper()}"
        if raw := environ.get(variable):  # an empty variable is an unset one, as everywhere in a shell
            layer[one.name] = (_parse(one, raw, variable), variable)
    return layer


def _parse(one: Field, raw: Any, source: str) -> Any:
    try:
        value = one.parse(raw)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None
    # Absolute at once: a detached server runs in another folder than the shell that started it.
    return str(absolute(value)) if one.name == "api_key_file" else value


def _from_file(file: TomlFile | None) -> _Layer:
    if file is None:
        return {}
    for key in file.data:
        if key not in ("server", "models"):
            belongs = key in {one.key for one in SERVER_FIELDS}
            hint = "it belongs in the [server] table" if belongs else _nearest_hint(key, ("server", "models"))
            raise file.error((), key, f"this key is not known here; {hint}")
    layer: _Layer = {}
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
    if nearest := difflib.get_close_matches(key, known, n=1):
        return f"did you mean {nearest[0]}?"
    return f"known are {', '.join(known)}"
