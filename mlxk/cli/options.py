"""Options and kinds of values that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])
Value = TypeVar("Value")


def _or_of_the_group(context: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    return value or bool(context.find_root().params.get("as_json"))


def json_option(function: Function) -> Function:
    """`--json`, accepted by every verb, also in front of it: `mlxk --json ps`."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        callback=_or_of_the_group,
        help="Print one JSON envelope on stdout.",
    )(function)


def setting_option(key: str, metavar: str, text: str) -> Callable[[Function], Function]:
    """The flag of a setting: `--max-memory SIZE` for `max_memory`.

    Checked by the setting's own parser, so that a wrong value is a usage error. It stays text: the settings
    parse it again, and a server that detaches hands it on as it was written.
    """

    def check(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        from mlxk.config.fields import SERVER_FIELDS

        field = next(one for one in SERVER_FIELDS if one.key == key)
        if value is not None:
            _parsed(field.parse, value, context, parameter)
        return value

    return click.option(f"--{key.replace('_', '-')}", callback=check, metavar=metavar, help=text)


def limit_option(text: str) -> Callable[[Function], Function]:
    """`--timeout TIME`: after so many seconds, given as a duration, to give up."""

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
        from mlxk.config.fields import parse_finite_duration_s

        return None if value is None else _parsed(parse_finite_duration_s, value, context, parameter)

    return click.option("--timeout", "timeout_s", callback=parse, metavar="TIME", help=text)


def _parsed(
    parse: Callable[[str], Value], value: str, context: click.Context, parameter: click.Parameter
) -> Value:
    try:
        return parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error
