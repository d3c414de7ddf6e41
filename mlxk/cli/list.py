"""`mlxk list`: the models on this machine's disk."""

from __future__ import annotations

import fnmatch
import time
from typing import TYPE_CHECKING, Any

import click

from mlxk.cli.names import read_settings
from mlxk.cli.options import json_option
from mlxk.cli.output import NOTHING, format_table, note, print_data, terminal_width

if TYPE_CHECKING:
    from mlxk.store.catalog import ModelRef
    from mlxk.store.inspection import ModelFacts

HEAD = ("NAME", "ID", "SIZE", "MODIFIED", "TYPE", "CONTEXT", "HEALTH")
LEAVE_OUT = ("TYPE", "CONTEXT", "MODIFIED", "ID")
"""In a narrow terminal, in this order."""

EXAMPLES = """\b
Examples:
  mlxk list
  mlxk list qwen
  mlxk list "mlx-community/*4bit"
  mlxk list --sort size                    the largest first
  mlxk list --json | jq '.data.models[] | select(.health == "unhealthy")'"""


@click.command("list", short_help="List the installed models.", epilog=EXAMPLES)
@click.argument("pattern", required=False)
@click.option(
    "--sort",
    "order",
    type=click.Choice(["name", "size", "modified"]),
    default="name",
    show_default=True,
    help="By name, or the largest or newest first.",
)
@json_option
def command(pattern: str | None, order: str, as_json: bool) -> None:
    """List the installed models whose name contains PATTERN (or matches it, with * and ?).

    HEALTH is what their headers and small files tell; `mlxk health` looks further. A model that is
    "unsupported" is whole, but nothing for MLX: other programs keep theirs in the same cache.
    """
    from mlxk.store.catalog import Catalog

    models = [one for one in Catalog(read_settings()).survey() if _matches(one[0].name, pattern)]
    if order == "size":
        models.sort(key=lambda one: -one[0].size_bytes)
    elif order == "modified":
        models.sort(key=lambda one: -one[0].modified_at)
    if as_json:
        data = {"models": [model_entry(*model) for model in models], "count": len(models)}
        print_data("list", data)
        return
    fit = terminal_width()
    rows = [_row(*model, with_reason=fit is None) for model in models]
    right = ("SIZE", "CONTEXT")
    click.echo(format_table(HEAD, rows, right=right, fit=fit, drop=LEAVE_OUT, flexible=("NAME",)))
    if pattern is not None and not models:
        note(f"no model matches '{pattern}'")
    unusable = sum(not facts.usable for _, facts in models)
    if unusable and fit is not None:
        note(f"{unusable} of them cannot be used; `mlxk health` says why, and what to do")


def _matches(name: str, pattern: str | None) -> bool:
    if pattern is None:
        return True
    name, pattern = name.casefold(), pattern.casefold()
    return pattern in name or fnmatch.fnmatchcase(name, pattern)


def model_entry(ref: ModelRef, facts: ModelFacts) -> dict[str, Any]:
    """One model in the JSON of `list` and `show`."""
    return {
        "name": ref.name,
        "hash": ref.revision or ref.id,
        "size_bytes": ref.size_bytes,
        "last_modified": utc_time(ref.modified_at) if ref.modified_at else None,
        "framework": facts.framework,
        "model_type": facts.model_type,
        "capabilities": list(facts.capabilities),
        "context_length": facts.context_length,
        "health": "healthy" if facts.healthy else "unhealthy",
        "runtime_compatible": facts.usable,
        "reason": facts.reason,
        "quantization": facts.quantization,
    }


def utc_time(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


def _row(ref: ModelRef, facts: ModelFacts, *, with_reason: bool) -> list[str]:
    from mlxk.config.units import format_size

    health = "healthy" if facts.usable else "unsupported" if facts.healthy else "unhealthy"
    return [
        ref.name,
        ref.id or NOTHING,
        format_size(ref.size_bytes),
        utc_time(ref.modified_at)[:10] if ref.modified_at else NOTHING,
        facts.model_type or NOTHING,
        str(facts.context_length or NOTHING),
        f"{health}: {facts.reason}" if with_reason and facts.reason else health,
    ]
