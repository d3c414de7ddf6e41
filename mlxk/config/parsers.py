"""How the values of settings are read: one small parser per kind of value.

A parser takes a value as it comes from a flag, an environment variable (always text) or the configuration
file, and raises ValueError with a sentence that says what is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from mlxk.config.errors import shown
from mlxk.config.units import parse_duration_s, parse_size

Parser = Callable[[Any], Any]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
LONGEST_STOP_STRING = 4096
"""Characters; a request's may not be longer either."""


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


def number(minimum: float, maximum: float) -> Parser:
    """A parser of numbers within these bounds (both included)."""

    def parse_number(value: Any) -> float:
        usable = isinstance(value, int | float) and not isinstance(value, bool)
        if usable and minimum <= value <= maximum:  # NaN is never inside
            return float(value)
        raise ValueError(f"{shown(value)} is not accepted: write a number from {minimum:g} to {maximum:g}")

    return parse_number


def parse_stop_strings(value: Any) -> tuple[str, ...]:
    strings = parse_names(value)
    for string in strings:
        if len(string) > LONGEST_STOP_STRING:
            raise ValueError(f"{shown(string)} is longer than {LONGEST_STOP_STRING} characters")
    return strings


def parse_table(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise ValueError(f"{shown(value)} is not a table: write name = value pairs in it")


def parse_template_arguments(value: Any) -> dict[str, Any]:
    """Variables of a chat template: what JSON can say too, since requests bring the same."""
    table = parse_table(value)
    for name, content in table.items():
        if name in OWN_TEMPLATE_ARGUMENTS:
            raise ValueError(f"{shown(name)} is an argument of ours, not of the template: leave it out")
        if not _is_json(content):
            raise ValueError(f"{shown(name)} is a date or time: write it as a text, in quotes")
    return table


def _is_json(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_json(one) for one in value.values())
    if isinstance(value, list):
        return all(_is_json(one) for one in value)
    return isinstance(value, str | bool | int | float)


OWN_TEMPLATE_ARGUMENTS = frozenset(
    {
        "conversation",
        "messages",
        "tools",
        "chat_template",
        "tokenize",
        "add_generation_prompt",
        "continue_final_message",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    }
)
"""Arguments of apply_chat_template that are not the template's: given twice, the call in the worker fails."""

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEPT_FROM_WORKERS = {
    "MLXK_": "sets nothing in a worker, which gets its settings from the server",
    "PYTHON": "could keep the worker's Python from starting",
}
"""Beginnings of names, and why not."""
_SET_BY_WORKERS = frozenset({"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM"})


def parse_environment(value: Any) -> dict[str, str]:
    """Variables of a worker's process."""
    variables: dict[str, str] = {}
    for name, content in parse_table(value).items():
        if not _VARIABLE_NAME.fullmatch(name):
            raise ValueError(f"{shown(name)} is not a variable's name: write letters, digits and _")
        if why := next((why for start, why in _KEPT_FROM_WORKERS.items() if name.startswith(start)), None):
            raise ValueError(f"the variable {name} is refused, it {why}: leave it out")
        if name in _SET_BY_WORKERS:
            raise ValueError(f"the variable {name} is set by every worker itself: leave it out")
        if isinstance(content, bool) or not isinstance(content, str | int | float) or "\0" in str(content):
            raise ValueError(f'the variable {name} needs a text: write {name} = "..."')
        variables[name] = str(content)
    return variables
