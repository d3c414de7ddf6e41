"""`mlxk push`, an experiment: a model to the hub. There is no such verb without MLXK_EXPERIMENTAL_PUSH=1."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from mlxk.cli.errors import CliError
from mlxk.cli.names import read_settings, resolve_model
from mlxk.cli.options import json_option
from mlxk.cli.output import note, print_data
from mlxk.cli.store_errors import store_errors

if TYPE_CHECKING:
    from mlxk.store.push import PushPlan

EXAMPLES = """\b
Examples:
  mlxk push my-model-4bit me/my-model-4bit            a private repository
  mlxk push my-model-4bit me/my-model-4bit --public"""


@click.command("push", short_help="Upload a model (experimental).", epilog=EXAMPLES)
@click.argument("model")
@click.argument("repo_id", metavar="ORG/NAME")
@click.option("--public", is_flag=True, help="A new repository is public. An existing one stays what it is.")
@click.option("--message", default="Upload with mlxk", show_default=True, help="Of the commit.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def command(model: str, repo_id: str, public: bool, message: str, yes: bool, as_json: bool) -> None:
    """Upload installed MODEL to ORG/NAME on the hub. Asks first. Experimental."""
    from mlxk.store.hub_client import HubClient
    from mlxk.store.hub_reference import parse_reference
    from mlxk.store.push import plan_push, push

    ref = resolve_model(model, read_settings())
    with store_errors():
        if "/" not in repo_id or parse_reference(repo_id).revision is not None:
            raise CliError("usage", f"'{repo_id}' is no repository; write ORG/NAME")
        client = HubClient(note=note)
        plan = plan_push(ref.path, repo_id, client)
        _confirm(ref.name, plan, public=public, yes=yes)
        done = push(ref.path, plan, client, public=public, message=message)
    if as_json:
        facts = {"size_bytes": plan.size_bytes, "files": len(plan.files), "created": not plan.exists}
        print_data("push", {"name": ref.name, "url": done.url, "hash": done.commit, **facts})
    else:
        click.echo(f"pushed {ref.name} to {done.url}")


def _confirm(name: str, plan: PushPlan, *, public: bool, yes: bool) -> None:
    from mlxk.cli.question import agreed
    from mlxk.config.units import format_size

    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: give --yes", click.get_current_context())
    where = plan.repo_id if plan.exists else f"{plan.repo_id}, new and {'public' if public else 'private'}"
    size = f"{len(plan.files)} files, {format_size(plan.size_bytes)}"
    if not agreed(f"Upload {name} ({size}) as {plan.user} to {where}?"):
        raise CliError("declined", "nothing was uploaded")
