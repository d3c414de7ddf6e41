"""What the doors go by: keys, names, origins and limits, in one object that a reload changes."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from starlette.types import Scope

from mlxk.config.settings import ConfigError, Settings


def header_values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def is_loopback(host: str) -> bool:
    """Of an address or name to bind to. A name other than localhost is none, whatever it resolves to now."""
    host = host.lower().rstrip(".")
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1
    return (mapped or address).is_loopback


def matches_host(name: str, listed: str) -> bool:
    """`listed` as in `allowed_hosts`: a name, `*.NAME` or `*`."""
    return listed in ("*", name) or (listed.startswith("*.") and name.endswith(listed[1:]))


def load_keys(settings: Settings, environ: Mapping[str, str] | None = None) -> tuple[bytes, ...]:
    """API keys of `api_key_file` (one a line, # comments) and of MLXK_API_KEY and MLXK_API_KEYS (commas).

    Raises ConfigError for a file that cannot be read or holds no key: the server would be open.
    """
    environ = os.environ if environ is None else environ
    keys: list[str] = []
    if settings.api_key_file:
        keys += _keys_of_file(Path(settings.api_key_file).expanduser())
    for name in ("MLXK_API_KEY", "MLXK_API_KEYS"):
        keys += [key.strip() for key in environ.get(name, "").split(",") if key.strip()]
    return tuple(key.encode("utf-8", "surrogateescape") for key in dict.fromkeys(keys))


def _keys_of_file(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"api_key_file {path} cannot be read: {error}") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"api_key_file {path} holds no key: write one on a line")
    return keys


def refuse_open_door(settings: Settings, keys: Sequence[bytes]) -> None:
    """Raises ConfigError for an address that others can reach, without a key and without --no-auth."""
    if not keys and not settings.no_auth and not is_loopback(settings.host):
        raise ConfigError(
            f"host {settings.host} can be reached by others and no API key is set: set api_key_file or "
            "MLXK_API_KEY, or say --no-auth to let everybody in"
        )


class DoorRules:
    """One object that all doors share."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError for an unreadable key file, or an open address without a key."""
        self.is_on_loopback = is_loopback(settings.host)
        self.take_up(settings)

    def take_up(self, settings: Settings) -> None:
        """Raises ConfigError as above, and has changed nothing then."""
        keys = load_keys(settings)
        refuse_open_door(settings, keys)
        self.keys = keys
        """Empty: no key is asked for."""
        self.max_body_bytes = settings.max_body_bytes
        self.allowed_hosts = settings.allowed_hosts
        self.receive_timeout_s = settings.receive_timeout_s
        self.send_timeout_s = settings.send_timeout_s
        self.origins = frozenset(one for one in settings.cors_origins if not one.endswith("*"))
        patterns = [_pattern(one) for one in settings.cors_origins if one.endswith("*")]
        self.origin_pattern = re.compile("|".join(patterns)) if patterns else None

    def knows_origin(self, origin: str) -> bool:
        """Whether `cors_origins` lists it."""
        return origin in self.origins or bool(self.origin_pattern and self.origin_pattern.fullmatch(origin))

    @property
    def knows_all_origins(self) -> bool:
        return self.knows_origin("null")  # which only "*" covers

    @property
    def knows_origins(self) -> bool:
        return bool(self.origins or self.origin_pattern)


def _pattern(listed: str) -> str:
    """Of `*`, `SCHEME://*` or `http://HOST:*`."""
    if listed == "*":
        return ".*"
    return re.escape(listed[:-1]) + ("[0-9]+" if not listed.endswith("://*") else "[^/?#]+")
