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


def add_help_option(command: click.Command) -> click.Command:
    """`--help` as click has it; with `--json`, which may come behind it, it prints what `mlxk help --json`
    prints. It cannot ask the option `--json`, which click reads later: `mlxk.cli.main.invoke` has looked, and
    says so in the context's `obj`."""

    def show(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
        if not wanted or context.resilient_parsing:
            return
        if context.find_root().obj is HELP_AS_JSON:
            from mlxk.cli.help import print_page

            print_page(context, context.command_path.split()[1:])
        else:
            click.echo(context.get_help())
        context.exit()

    if command.add_help_option:
        command.add_help_option = False  # click's own
        text = "Show this message and exit."
        click.option(
            "-h", "--help", is_flag=True, is_eager=True, expose_value=False, callback=show, help=text
        )(command)
        for one in command.commands.values() if isinstance(command, click.Group) else ():
            add_help_option(one)
    return command


HELP_AS_JSON = object()


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


def assignments_option(function: Function) -> Function:
    """`--set KEY=VALUE`, several times: any setting of the server, for those without a flag of their own."""

    def read(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
        from mlxk.config.fields import SERVER_FIELDS

        fields, chosen = {one.key: one for one in SERVER_FIELDS}, {}
        for text in values:
            key, equals, value = text.partition("=")
            if not equals or key not in fields:
                problem = f"'{text}' is not KEY=VALUE with a key of `mlxk config`, such as max_batch=8"
                raise click.BadParameter(problem, context, parameter)
            _parsed(fields[key].parse, value, context, parameter)
            chosen[key] = value
        return chosen

    return click.option(
        "--set",
        "assignments",
        multiple=True,
        callback=read,
        metavar="KEY=VALUE",
        help="Any other setting (`mlxk config` lists them).",
    )(function)


def limit_option(text: str) -> Callable[[Function], Function]:
    """`--timeout TIME`: after so many seconds, given as a duration, to give up."""

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
        from mlxk.config.parsers import parse_finite_duration_s

        return None if value is None else _parsed(parse_finite_duration_s, value, context, parameter)

    return click.option("--timeout", "timeout_s", callback=parse, metavar="TIME", help=text)


def interval_option(text: str) -> Callable[[Function], Function]:
    """`-n TIME`, `--interval TIME`: how often a screen is drawn anew, as `interval_s`; None if not given."""

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
        from mlxk.config.parsers import parse_finite_duration_s

        if value is None:
            return None
        seconds = _parsed(parse_finite_duration_s, value, context, parameter)
        if not LEAST_INTERVAL_S <= seconds <= LONGEST_INTERVAL_S:
            raise click.BadParameter("it must be at least 0.1s and at most 1d", context, parameter)
        return seconds

    return click.option("-n", "--interval", "interval_s", callback=parse, metavar="TIME", help=text)


LEAST_INTERVAL_S = 0.1
LONGEST_INTERVAL_S = 86400.0


def _parsed(
    parse: Callable[[str], Value], value: str, context: click.Context, parameter: click.Parameter
) -> Value:
    try:
        return parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error
