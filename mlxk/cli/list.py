"""`mlxk list`: the models on this machine's disk."""

from __future__ import annotations

import fnmatch
import time
from typing import TYPE_CHECKING, Any

import click

from mlxk.cli.names import read_settings
from mlxk.cli.options import json_option
from mlxk.cli.output import NOTHING, format_table, print_data

if TYPE_CHECKING:
    from mlxk.store.catalog import ModelRef
    from mlxk.store.inspection import ModelFacts

HEAD = ("NAME", "ID", "SIZE", "MODIFIED", "TYPE", "CONTEXT", "HEALTH")

EXAMPLES = """\b
Examples:
  mlxk list
  mlxk list qwen
  mlxk list "mlx-community/*4bit"
  mlxk list --json | jq '.data.models[] | select(.health == "unhealthy")'"""


@click.command("list", short_help="List the installed models.", epilog=EXAMPLES)
@click.argument("pattern", required=False)
@json_option
def command(pattern: str | None, as_json: bool) -> None:
    """List the installed models whose name contains PATTERN (or matches it, with * and ?)."""
    from mlxk.store.catalog import Catalog
    from mlxk.store.inspection import inspect_model

    refs = [ref for ref in Catalog(read_settings()).models() if _matches(ref.name, pattern)]
    models = [(ref, inspect_model(ref.path)) for ref in refs]
    if as_json:
        print_data("list", {"models": [_entry(*model) for model in models], "count": len(models)})
    else:
        click.echo(format_table(HEAD, [_row(*model) for model in models], right=("SIZE", "CONTEXT")))


def _matches(name: str, pattern: str | None) -> bool:
    if pattern is None:
        return True
    name, pattern = name.casefold(), pattern.casefold()
    return pattern in name or fnmatch.fnmatchcase(name, pattern)


def _entry(ref: ModelRef, facts: ModelFacts) -> dict[str, Any]:
    return {
        "name": ref.name,
        "hash": ref.revision or ref.id,
        "size_bytes": ref.size_bytes,
        "last_modified": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ref.modified_at)),
        "framework": facts.framework,
        "model_type": facts.model_type,
        "capabilities": list(facts.capabilities),
        "context_length": facts.context_length,
        "health": _health(facts),
        "runtime_compatible": facts.healthy and facts.framework == "MLX",
        "reason": facts.reason,
        "quantization": facts.quantization,
    }


def _row(ref: ModelRef, facts: ModelFacts) -> list[str]:
    from mlxk.config.units import format_size

    return [
        ref.name,
        ref.id,
        format_size(ref.size_bytes),
        time.strftime("%Y-%m-%d", time.localtime(ref.modified_at)),
        facts.model_type or NOTHING,
        str(facts.context_length or NOTHING),
        _health(facts) + (f": {facts.reason}" if facts.reason else ""),
    ]


def _health(facts: ModelFacts) -> str:
    return "healthy" if facts.healthy else "unhealthy"
