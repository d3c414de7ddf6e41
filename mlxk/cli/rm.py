"""`mlxk rm`: models off the disk, after a look at who uses them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mlxk.cli.errors import CliError
from mlxk.cli.names import read_settings
from mlxk.cli.options import json_option
from mlxk.cli.output import note, print_data, printable
from mlxk.cli.store_errors import store_errors
from mlxk.cli.users_of_models import stop_users

if TYPE_CHECKING:
    from mlxk.store.removable import Chosen, Removables
    from mlxk.store.removal import Removal

EXAMPLES = """\b
Examples:
  mlxk rm mlx-community/Qwen3-0.6B-4bit       asks, then removes all of it
  mlxk rm Qwen3-0.6B-4bit@1a2b3c              that snapshot only
  mlxk rm --yes Qwen3-0.6B-4bit old-model     for scripts

\b
A model that is loaded is stopped first, after its requests are done (--now:
at once). What other snapshots share stays. Folders that config.toml names,
and what links lead to, are not mlxk's to remove. An `rm` that was broken off
is finished by the next one."""


@click.command("rm", short_help="Remove models from the disk.", epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True, metavar="MODEL[@HASH]...")
@click.option("--yes", "-y", is_flag=True, help="Do not ask. Names must then be whole.")
@click.option("--now", is_flag=True, help="Do not wait for requests that still run.")
@json_option
def command(models: tuple[str, ...], yes: bool, now: bool, as_json: bool) -> None:
    """Remove MODELs, or with @HASH only that snapshot of one. Asks first.

    Without a terminal to ask on, --yes is needed.
    """
    from mlxk.store.removable import Removables
    from mlxk.store.removal import leftover_removals

    with store_errors():
        removables = Removables(read_settings())
        chosen = _choose(models, removables, yes=yes)
        removals = list({one.removal.path: one.removal for one in chosen}.values())
        _confirm(removals, removables, yes=yes)
        done = _remove(removals, removables, now=now, as_json=as_json)
        for left in leftover_removals():
            _finish(left)
    if as_json:
        print_data("rm", {"models": done, "freed_bytes": sum(one["freed_bytes"] for one in done)})


def _choose(models: Sequence[str], removables: Removables, *, yes: bool) -> list[Chosen]:
    """All names are looked up before anything happens: a typo in the third removes none."""
    from mlxk.store.errors import AmbiguousModelError, UnknownModelError

    chosen = []
    for name in models:
        try:
            one = removables.choose(name)
        except UnknownModelError as error:
            details: dict[str, Any] = {"model": name, "nearest": list(error.nearest)}
            raise CliError("model_not_found", f"{error} Nothing was removed.", details) from error
        except AmbiguousModelError as error:
            details = {"model": name, "matches": list(error.matches)}
            raise CliError("ambiguous_model", f"{error} Nothing was removed.", details) from error
        if yes and not one.is_exact:
            raise CliError(
                "model_not_found",
                f"'{name}' is only a part of {one.removal.name}: with --yes write the whole name. "
                "Nothing was removed.",
                {"model": name, "nearest": [one.removal.name]},
            )
        chosen.append(one)
    return chosen


def _confirm(removals: Sequence[Removal], removables: Removables, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: give --yes", click.get_current_context())
    for removal in removals:
        note(f"  {_describe(removal)}")
        if names := removables.aliases_of(removal):
            note(f"    ({', '.join(map(printable, names))} of config.toml will lead nowhere)")
    from mlxk.cli.question import agreed
    from mlxk.config.units import format_size

    total = format_size(sum(removal.size_bytes for removal in removals))
    what = "this" if len(removals) == 1 else f"these {len(removals)}"
    if not agreed(f"Remove {what}? {total} come back"):
        raise CliError("declined", "nothing was removed")


def _describe(removal: Removal) -> str:
    from mlxk.config.units import format_size
    from mlxk.store.removal import RemovalKind

    size, name = format_size(removal.size_bytes), printable(removal.name)
    if removal.link_target is not None:
        return f"{name}: a link; {removal.link_target}, where it leads, stays"
    if removal.kind is RemovalKind.REPOSITORY and removal.n_snapshots != 1:
        count = f"{removal.n_snapshots} snapshots" if removal.n_snapshots else "an unfinished download"
        return f"{name}: {size}, {count}"
    if removal.kind is RemovalKind.SNAPSHOT:
        return f"{name}: {size}, this snapshot only"
    if removal.kind is RemovalKind.LEFTOVER:
        return f"{name}: {size}, the rest of a removal that was broken off"
    return f"{name}: {size}"


def _remove(
    removals: Sequence[Removal], removables: Removables, *, now: bool, as_json: bool
) -> list[dict[str, Any]]:
    from mlxk.store.removal import destroy, held, hide, renewed

    done: list[dict[str, Any]] = []
    for agreed in removals:
        with held(agreed):
            removal = renewed(agreed)
            users = {ref.name for ref in removables.users_of([removal])}
            stopped = stop_users(users, now=now)
            hidden = hide(removal)
            # A request may have come between the two, and loaded the model once more.
            stopped += [one for one in stop_users(users, now=True) if one not in stopped]
            destroy(removal, hidden)
        done.append(_entry(removal, stopped))
        if not as_json:
            click.echo(_sentence(removal, stopped))
    return done


def _finish(left: Removal) -> None:
    from mlxk.store.removal import destroy, hide

    destroy(left, hide(left))


def _entry(removal: Removal, stopped: list[str]) -> dict[str, Any]:
    return {
        "name": removal.name,
        "kind": str(removal.kind),
        "hash": removal.revision,
        "removed": True,
        "freed_bytes": removal.size_bytes,
        "stopped": stopped,
    }


def _sentence(removal: Removal, stopped: list[str]) -> str:
    from mlxk.config.units import format_size

    text = f"removed {removal.name}, freed {format_size(removal.size_bytes)}"
    if removal.link_target is not None:
        text = f"removed the link {removal.name}; {removal.link_target} is still there"
    return text + (f" (stopped {', '.join(stopped)})" if stopped else "")
