"""`mlxk load`: have models ready before the first request."""

from __future__ import annotations

from typing import Any

import click

from mlxk.cli.control import ANSWER_LIMIT_S, ask, server
from mlxk.cli.errors import CliError
from mlxk.cli.options import json_option
from mlxk.cli.output import note, print_data, printable

EXAMPLES = """\b
Examples:
  mlxk load tiny
  mlxk load mlx-community/Qwen3-0.6B-4bit tiny
  mlxk load --dry-run big-model      does it fit, and what would go for it?"""


@click.command("load", short_help="Load models into the running server.", epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--dry-run", is_flag=True, help="Say what would be done for each MODEL alone; do nothing.")
@json_option
def command(models: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Load models into the running server and wait until they are ready.

    A dry run ends with 6 if one of them can never fit.
    """
    if dry_run:
        _plan(models, as_json=as_json)
        return
    with server() as client:
        data = ask(client, "load", {"models": list(models)}, timeout_s=None)
    if as_json:
        print_data("load", data)
        return
    done = data.get("models", [])
    for model in done:
        click.echo(printable(_sentence(model)))
    for model in done:
        for name in {one["name"] for one in done}.intersection(model.get("evicted", [])):
            text = f"warning: {name} was unloaded again for {model['name']}: there is no room for both"
            note(printable(text))


def _plan(models: tuple[str, ...], *, as_json: bool) -> None:
    with server() as client:
        data = client.call("load", {"models": list(models), "dry_run": True}, timeout_s=ANSWER_LIMIT_S)
    plans = data.get("models", [])
    hopeless = [plan for plan in plans if not plan["fits"]]
    if hopeless and as_json:
        raise CliError("insufficient_memory", "\n".join(describe_plan(plan) for plan in hopeless), data)
    if as_json:
        print_data("load", data)
        return
    for plan in plans:
        if plan["fits"]:
            click.echo(printable(describe_plan(plan)))
    if hopeless:
        raise CliError("insufficient_memory", "\n".join(describe_plan(plan) for plan in hopeless))


def describe_plan(plan: dict[str, Any]) -> str:
    """One model's dry run as a sentence or two."""
    from mlxk.config.units import format_size

    need = f"{format_size(plan['need_bytes'])} ({plan['need_source']})"
    free = f"{format_size(plan['free_bytes'])} of {format_size(plan['memory_limit_bytes'])} are free"
    if plan.get("limited_by") == "max_models":
        free += f", but no more than {plan['max_models']} may be loaded at once (--max-models)"
    took = f"about {plan['load_s']:.1f} s ({plan['load_s_source']})"
    name, verdict = plan["name"], plan["verdict"]
    if verdict == "loaded":
        return f"{name}: already loaded"
    if verdict == "loading":
        return f"{name}: is being loaded, {took} in all"
    if verdict == "fits":
        return f"{name}: fits. It needs {need}, {free}; the load takes {took}"
    if verdict == "makes_room":
        steps = [f"trim {_held(plan['trim'])}"] if plan["trim"] else []
        steps += [f"evict {_held(plan['evict'])}"] if plan["evict"] else []
        return (
            f"{name}: fits after room is made: would {' and '.join(steps)}. It needs {need}, {free}; "
            f"the load then takes {took}"
        )
    if verdict == "waits":
        return (
            f"{name}: would wait for {_held(plan['wait_for'])}. It needs {need}, {free}; "
            f"the load then takes {took}"
        )
    return f"{name}: does not fit: {plan['reason']}"


def _held(models: list[dict[str, Any]]) -> str:
    from mlxk.config.units import format_size

    return ", ".join(f"{model['name']} ({format_size(model['bytes'])})" for model in models)


def _sentence(model: dict[str, Any]) -> str:
    from mlxk.config.units import format_size

    if model.get("already_loaded"):
        return f"{model['name']}: already loaded"
    memory = model.get("memory_bytes")
    took = f"{model['name']}: loaded in {model.get('load_s') or 0:.1f} s"
    if memory:
        took += f", {format_size(memory)}"
    gone = ", ".join(model.get("evicted", []))
    return f"{took}; {gone} had to go for it" if gone else took
