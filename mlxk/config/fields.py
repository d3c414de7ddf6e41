"""What each setting accepts: one line per setting, one small parser per kind of value.

A parser takes a value as it comes from a flag, an environment variable (always text) or the configuration
file, and raises ValueError with a sentence that says what is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mlxk.config.errors import shown
from mlxk.config.units import parse_duration_s, parse_size

Parser = Callable[[Any], Any]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
LONGEST_NAME = 200
"""Characters in a model's name; a longer one is unknown by definition."""


class Field(NamedTuple):
    """One setting: its name in `Settings`, and how its value is read."""

    name: str
    parse: Parser

    @property
    def key(self) -> str:
        """The name that people write: without the unit, since the value says it ("8GB", "10m")."""
        return self.name.removesuffix("_bytes").removesuffix("_s")


def parse_text(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise ValueError(f"{shown(value)} is not accepted: write a text that is not empty")


def parse_host(value: Any) -> str:
    if isinstance(value, str) and value.strip() and not any(c in value.strip() for c in "/ \t\n\0"):
        return value.strip().removeprefix("[").removesuffix("]")
    raise ValueError(
        f"{shown(value)} is not an address: write one such as 127.0.0.1, ::1 or 0.0.0.0 (no http://)"
    )


def parse_switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else ""
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError(f"{shown(value)} is neither yes nor no: write 1/true/yes/on or 0/false/no/off")


def parse_path(value: Any) -> str:
    if isinstance(value, str) and value.strip() and "\0" not in value:
        return value.strip()
    raise ValueError(f"{shown(value)} is not a path: write a file's or folder's path as text")


def parse_names(value: Any) -> tuple[str, ...]:
    """A list of texts. As text (environment): separated by commas, or a JSON list where they hold commas."""
    if isinstance(value, str):
        value = _split_list(value)
    if isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value):
        return tuple(value)
    raise ValueError(f'{shown(value)} is not a list of texts: write ["a", "b"], or a,b in the environment')


def _split_list(text: str) -> Any:
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    import json  # rarely needed, and not free at start

    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s*]+(:\*)?|(?!https?:)[a-z][a-z0-9+.-]*://\*")
_HOST_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:.]+:[0-9a-f:.]*")


def parse_origins(value: Any) -> tuple[str, ...]:
    """As browsers write them: lower case, no path. `SCHEME://*` stands for all origins of a scheme that no
    web site has (extensions: Firefox gives each installation its own), `http://HOST:*` for all its ports."""
    origins = [origin.strip().lower().rstrip("/") for origin in parse_names(value)]
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{shown(origin)} is not an origin: write http://HOST[:PORT], https://HOST[:PORT], "
                "chrome-extension://ID, tauri://localhost and the like, or *"
            )
    return tuple(dict.fromkeys(origins))


def parse_hosts(value: Any) -> tuple[str, ...]:
    """Host names without a port, in lower case. `*.NAME` stands for all names under it, `*` for all."""
    hosts = [host.strip().lower().rstrip(".").strip("[]") for host in parse_names(value)]
    for host in hosts:
        if host != "*" and not _HOST_NAME.fullmatch(host):
            raise ValueError(
                f"{shown(host)} is not a host name: write one such as llm.example.org, *.example.org or * "
                "(no http://, no port)"
            )
    return tuple(dict.fromkeys(hosts))


def parse_size_or_auto(value: Any) -> int | None:
    """Bytes; None for "auto": decided from the machine."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return None
    try:
        return parse_size(value)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


def parse_positive_duration_s(value: Any) -> float:
    seconds = parse_duration_s(value)
    if seconds <= 0:
        raise ValueError(f"{shown(value)} is not accepted: write a duration above 0, such as 30s or 5m")
    return seconds


def parse_finite_duration_s(value: Any) -> float:
    seconds = parse_duration_s(value)
    if seconds < 0:
        raise ValueError(f"{shown(value)} is not accepted: write a duration from 0 up, such as 30s or 5m")
    return seconds


def whole(minimum: int, maximum: int | None = None, what: str = "whole number") -> Parser:
    """A parser of ints within these bounds (both included)."""
    bounds = f"from {minimum} up" if maximum is None else f"from {minimum} to {maximum}"

    def parse_whole(value: Any) -> int:
        number = value
        if isinstance(value, str) and len(value) < 20 and value.strip().isascii() and value.strip().isdigit():
            number = int(value)
        usable = isinstance(number, int) and not isinstance(number, bool)
        if usable and number >= minimum and (maximum is None or number <= maximum):
            return int(number)
        raise ValueError(f"{shown(value)} is not accepted: write a {what} {bounds}")

    return parse_whole


def choice(*words: str) -> Parser:
    """A parser that accepts one of these words, in any case."""

    def parse_choice(value: Any) -> str:
        if isinstance(value, str) and value.strip().lower() in words:
            return value.strip().lower()
        raise ValueError(f"{shown(value)} is not accepted: write one of {', '.join(words)}")

    return parse_choice


def parse_table(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise ValueError(f"{shown(value)} is not a table: write name = value pairs in it")


SERVER_FIELDS: tuple[Field, ...] = (
    Field("host", parse_host),
    Field("port", whole(0, 65535, "port")),
    Field("max_memory_bytes", parse_size_or_auto),
    Field("max_models", whole(0)),
    Field("keep_alive_s", parse_duration_s),
    Field("drain_timeout_s", parse_finite_duration_s),
    Field("stop_grace_s", parse_finite_duration_s),
    Field("abort_grace_s", parse_finite_duration_s),
    Field("start_timeout_s", parse_positive_duration_s),
    Field("load_stall_s", parse_positive_duration_s),
    Field("pong_timeout_s", parse_positive_duration_s),
    Field("max_wait_s", parse_finite_duration_s),
    Field("swap_after_s", parse_duration_s),
    Field("request_timeout_s", parse_finite_duration_s),
    Field("receive_timeout_s", parse_positive_duration_s),
    Field("send_timeout_s", parse_positive_duration_s),
    Field("queue_per_model", whole(0)),
    Field("queue_total", whole(0)),
    Field("max_batch", whole(1)),
    Field("cache_bytes", parse_size_or_auto),
    Field("max_body_bytes", parse_size),
    Field("chat_stop_strings", parse_names),
    Field("log_level", choice("debug", "info", "warning", "error", "critical")),
    Field("log_json", parse_switch),
    Field("api_key_file", parse_path),
    Field("no_auth", parse_switch),
    Field("cors_origins", parse_origins),
    Field("allowed_hosts", parse_hosts),
    Field("engine", choice("mlx", "fake")),
    Field("spare", parse_switch),
    Field("preload", parse_names),
)
"""All of `Settings` but the models."""

MODEL_FIELDS: tuple[Field, ...] = (
    Field("path", parse_path),
    Field("id", parse_text),
    Field("pinned", parse_switch),
    Field("preload", parse_switch),
    Field("keep_alive_s", parse_duration_s),
    Field("context_length", whole(1)),
    Field("trust_remote_code", parse_switch),
    Field("options", parse_table),
)
"""What a `[models."NAME"]` table may say."""
