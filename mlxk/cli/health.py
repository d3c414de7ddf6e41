"""`mlxk health`: which models are whole and can be run, and what to do about the others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mlxk.cli.errors import CliError, ExitCode
from mlxk.cli.names import read_settings
from mlxk.cli.options import json_option
from mlxk.cli.output import print_data, printable, styled, wrap

if TYPE_CHECKING:
    from mlxk.store.catalog import Catalog
    from mlxk.store.checkup import Checkup

INDENT = "    "
COLORS = {"healthy": "green", "unsupported": "yellow", "unhealthy": "red"}

EXAMPLES = """\b
Examples:
  mlxk health
  mlxk health mlx-community/Qwen3-0.6B-4bit
  mlxk health --json | jq -r '.data.unhealthy[].name'"""


@click.command("health", short_help="Check the installed models, and say what to do.", epilog=EXAMPLES)
@click.argument("model", required=False)
@json_option
@click.pass_context
def command(context: click.Context, /, model: str | None, as_json: bool) -> None:
    """Look for what is missing, broken or not for MLX in all installed models, or in MODEL.

    Reads the headers of all weights, the files beside them and what downloads left behind, and asks mlx_lm
    whether it has the architecture. Changes nothing.

    Exit code 1 if a model is unhealthy: its files are missing or broken. A model that is whole and only not
    supported (GGUF, an embedding model) counts if it was asked for by name.
    """
    found = examine(model)
    data = _data(found)
    bad = [one for one in found if not one.healthy or (model is not None and not one.runnable)]
    error = CliError("model_unhealthy", _verdict(data["summary"]), {"models": [one.name for one in bad]})
    if as_json:
        print_data("health", data, error=error if bad else None)
    else:
        for one in sorted(found, key=lambda one: (one.runnable, one.healthy)):
            click.echo("\n".join(_lines(one)))
        if len(found) != 1:
            click.echo(_verdict(data["summary"]))
    context.exit(ExitCode.ERROR if bad else ExitCode.OK)


def examine(name: str | None) -> list[Checkup]:
    """All that is installed, or the model of that name. Raises CliError if there is none."""
    from mlxk.store.catalog import Catalog
    from mlxk.store.checkup import Checkup, check_up, fragments
    from mlxk.store.faults import damaged

    catalog = Catalog(read_settings())
    if name is not None:
        return _one(catalog, name)
    found = check_up(catalog, catalog.models())
    for error in catalog.unusable_aliases():
        wrong = damaged("dangling_alias", error.reason, "")
        found.append(Checkup(error.name, (wrong,)))
    return sorted([*found, *fragments()], key=lambda one: one.name)


def _one(catalog: Catalog, name: str) -> list[Checkup]:
    from mlxk.cli.names import locate_model
    from mlxk.store.checkup import check_up, fragments
    from mlxk.store.names import exact_name

    try:
        return check_up(catalog, [locate_model(name, catalog)])
    except CliError as error:
        if error.type == "model_not_found":
            parts = {one.name: one for one in fragments()}
            if exact := exact_name(name, parts):
                return [parts[exact]]
        raise


def _data(found: list[Checkup]) -> dict[str, Any]:
    healthy = [one for one in found if one.healthy]
    unhealthy = [one for one in found if not one.healthy]
    return {
        "healthy": [_entry(one) for one in healthy],
        "unhealthy": [_entry(one) for one in unhealthy],
        "summary": {
            "total": len(found),
            "healthy_count": len(healthy),
            "unhealthy_count": len(unhealthy),
            "unsupported_count": sum(not one.runnable for one in healthy),
        },
    }


def _entry(one: Checkup) -> dict[str, Any]:
    return {
        "name": one.name,
        "status": "healthy" if one.healthy else "unhealthy",
        "reason": None if one.runnable else one.faults[0].sentence,
        "runtime_compatible": one.runnable,
        "problems": [fault.as_data() for fault in one.faults],
    }


def _lines(one: Checkup) -> Iterator[str]:
    word = "healthy" if one.runnable else "unsupported" if one.healthy else "unhealthy"
    yield f"{printable(one.name)}: {styled(word, COLORS[word], sys.stdout)}"
    for fault in one.faults:
        mark = "note: " if fault.severity == "warning" else ""
        yield from wrap(printable(mark + fault.text), INDENT, hang=3)
        if fault.advice:
            yield from wrap(f"-> {printable(fault.advice)}", INDENT, hang=3)


def _verdict(summary: dict[str, int]) -> str:
    supported = summary["healthy_count"] - summary["unsupported_count"]
    total = f"{summary['total']} model{'' if summary['total'] == 1 else 's'}"
    parts = [f"{supported} healthy"]
    parts += [f"{summary['unhealthy_count']} unhealthy"] if summary["unhealthy_count"] else []
    parts += [f"{summary['unsupported_count']} not supported"] if summary["unsupported_count"] else []
    return f"{total}: {', '.join(parts)}"
