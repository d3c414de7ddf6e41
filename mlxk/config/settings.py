"""The settings of a server, and where each came from.

Precedence: flags, then MLXK_* variables, then the configuration file, then the defaults here.
Kept light on purpose: every verb of the command line reads the settings, also `mlxk ps`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxk.config.errors import ConfigError, Mistake
from mlxk.config.fields import SERVER_FIELDS, Field
from mlxk.config.model_settings import ModelSettings
from mlxk.config.paths import absolute
from mlxk.config.paths import config_file as default_config_file
from mlxk.config.tables import Layer, from_file

if TYPE_CHECKING:
    from mlxk.config.toml_file import TomlFile

__all__ = ["ConfigError", "ModelSettings", "Settings", "load_settings"]


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
    """How long a completion or tokenization may take as a whole, waiting and load included. 0: no limit."""
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
    Raises ConfigError with all that is wrong.
    """
    environ = os.environ if environ is None else environ
    mistakes: list[Mistake] = []
    try:
        file = read_config(config_path, environ)
    except ConfigError as error:
        file = None
        mistakes += error.mistakes
    values: dict[str, Any] = {}
    sources = {one.name: "default" for one in SERVER_FIELDS} | {"models": "default"}
    layers = (
        from_file(file, mistakes),
        _from_environ(environ, mistakes),
        _from_flags(flags or {}, mistakes),
    )
    if mistakes:
        raise ConfigError(*mistakes)
    for layer in layers:
        for name, (value, source) in layer.items():
            values[name], sources[name] = value, source
    return Settings(**values, sources=sources)


def read_config(config_path: Path | None, environ: Mapping[str, str]) -> TomlFile | None:
    """The configuration file; None if there is none, and none was asked for. Raises ConfigError."""
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


def _from_flags(flags: Mapping[str, Any], mistakes: list[Mistake]) -> Layer:
    by_name = {one.name: one for one in SERVER_FIELDS} | {one.key: one for one in SERVER_FIELDS}
    layer: Layer = {}
    for name, raw in flags.items():
        if name not in by_name:
            raise TypeError(f"load_settings() knows no flag {name!r}")
        if raw is not None and raw != ():
            one = by_name[name]
            _parse(one, raw, f"--{one.key.replace('_', '-')}", "flag", layer, mistakes)
    return layer


def _from_environ(environ: Mapping[str, str], mistakes: list[Mistake]) -> Layer:
    layer: Layer = {}
    for one in SERVER_FIELDS:
        if raw := environ.get(one.variable):  # an empty variable is an unset one, as everywhere in a shell
            _parse(one, raw, one.variable, one.variable, layer, mistakes)
    return layer


def _parse(one: Field, raw: Any, place: str, source: str, layer: Layer, mistakes: list[Mistake]) -> None:
    """Puts the value into `layer`, or what is wrong with it into `mistakes`."""
    try:
        value = one.parse(raw)
    except ValueError as error:
        mistakes.append(Mistake(f"{place}: {error}", place, key=one.key))
        return
    # Absolute at once: a detached server runs in another folder than the shell that started it.
    layer[one.name] = (str(absolute(value)) if one.name == "api_key_file" else value, source)
