"""`mlxk show`: all about one model, without loading it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from mlxk.cli.errors import CliError
from mlxk.cli.list import model_entry, utc_time
from mlxk.cli.names import locate_model, read_settings
from mlxk.cli.options import json_option
from mlxk.cli.output import print_data

if TYPE_CHECKING:
    from mlxk.config.settings import Settings
    from mlxk.store.catalog import ModelRef
    from mlxk.store.description import Description

LOOK_S = 2.0
"""A running server is asked for so long; without its answer the page says less."""

EXAMPLES = """\b
Examples:
  mlxk show tiny
  mlxk show tiny --template                the chat template, as it is
  mlxk show mlx-community/gpt-oss-20b-MXFP4-Q8 --files
  mlxk show tiny --json | jq .data.metadata.memory"""


@click.command("show", short_help="Show all about one model.", epilog=EXAMPLES)
@click.argument("model")
@click.option("--files", "part", flag_value="files", help="Its files with their sizes, and nothing else.")
@click.option("--config", "part", flag_value="config", help="Its config.json, and nothing else.")
@click.option("--template", "part", flag_value="template", help="Its chat template, and nothing else.")
@json_option
def command(model: str, part: str | None, as_json: bool) -> None:
    """Show what MODEL is, how it is quantized, what it can do, and whether it fits into memory here.

    Also a model that is broken or not supported is shown, as far as its files go.
    """
    from mlxk.cli import model_page
    from mlxk.store.catalog import Catalog
    from mlxk.store.description import describe

    settings = read_settings()
    catalog = Catalog(settings)
    ref = locate_model(model, catalog)
    found = describe(ref)
    if part is not None and not as_json:
        click.echo(_part(part, ref, found))
        return
    metadata = _metadata(ref, found, catalog, settings)
    if part in ("config", "template"):
        metadata[part] = found.config if part == "config" else found.template
    data = {"model": model_entry(ref, catalog.facts(ref)), "metadata": metadata}
    if as_json:
        print_data("show", data)
    else:
        click.echo(model_page.page(data))


def _part(part: str, ref: ModelRef, found: Description) -> str:
    from mlxk.cli import model_page

    if part == "files":
        return model_page.file_table([_file(entry) for entry in found.files])
    if part == "template":
        if found.template is None:
            raise CliError("no_template", f"{ref.name} has no chat template, as base models have none")
        return found.template
    try:
        return (ref.path / "config.json").read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError as error:
        reason = error.strerror or error
        raise CliError("no_config", f"{ref.name}'s config.json cannot be read ({reason})") from error


def _metadata(ref: ModelRef, found: Description, catalog: Any, settings: Settings) -> dict[str, Any]:
    facts = catalog.facts(ref)
    return {
        "architecture": facts.architecture,
        "model_type": facts.model_type,
        "parameters": found.contents.n_parameters or None,
        "context_length": facts.context_length,
        "quantization": found.quantization(),
        "gguf": [
            {"variant": one.name, "size_bytes": one.size_bytes, "files": list(one.files)}
            for one in found.gguf
        ],
        "chat_template": "chat" in facts.capabilities,
        "tools": "tools" in facts.capabilities,
        "reasoning": "reasoning" in facts.capabilities,
        "license": found.license,
        "generation_defaults": found.generation_defaults,
        "source": ref.source.value,
        "path": str(ref.path),
        "revision": ref.revision,
        "revisions": [
            {"hash": one.hash, "last_modified": utc_time(one.modified_at), "current": one.current}
            for one in found.revisions
        ],
        "configured": _configured(ref, settings),
        "memory": _memory(ref, settings),
        "files": [_file(entry) for entry in found.files],
        "problems": [fault.as_data() for fault in facts.faults],
    }


def _file(entry: Any) -> dict[str, Any]:
    return {"name": entry.name, "size_bytes": entry.size_bytes, "missing": entry.dangling}


def _configured(ref: ModelRef, settings: Settings) -> dict[str, Any]:
    """Its aliases, and what the configuration says of it beyond the defaults."""
    from mlxk.config.provenance import hidden

    own = settings.models.get(ref.name)
    changed: dict[str, Any] = {}
    if own is not None:
        for field in dataclasses.fields(own):
            value = getattr(own, field.name)
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            if field.name != "name" and value != default:
                shown = hidden(field.name, value)
                changed[field.name] = dict(shown) if isinstance(shown, Mapping) else shown
    aliases = sorted(one.name for one in settings.models.values() if one.id == ref.name)
    return {"aliases": aliases, "settings": changed}


def _memory(ref: ModelRef, settings: Settings) -> dict[str, Any]:
    """What it needs by the server's own forecast, and whether that fits. The running server is asked, if
    there is one: it knows its limit, what is free now, and whether the model is loaded."""
    from mlxk.config.paths import measured_file
    from mlxk.supervisor.forecast import forecast
    from mlxk.supervisor.measured import MeasuredPeaks
    from mlxk.supervisor.memory import default_limit_bytes

    limit_bytes = settings.max_memory_bytes or default_limit_bytes()
    expected = forecast(ref, settings, limit_bytes, MeasuredPeaks(measured_file()))
    memory: dict[str, Any] = {
        "weights_bytes": ref.size_bytes,
        "cache_bytes": expected.cache_bytes,
        "need_bytes": expected.cost_bytes,
        "need_source": "measured" if expected.measured else "estimated",
        "limit_bytes": limit_bytes,
        "fits": expected.cost_bytes <= limit_bytes,
        "server": None,
    }
    plan = _ask_server(ref.name)
    if plan is not None:
        memory |= {
            "need_bytes": plan["need_bytes"],
            "need_source": plan["need_source"],
            "limit_bytes": plan["memory_limit_bytes"],
            "fits": plan["fits"],
            "server": {"verdict": plan["verdict"], "free_bytes": plan["free_bytes"]},
        }
    return memory


def _ask_server(name: str) -> dict[str, Any] | None:
    """What the running server would do to load it (`mlxk load --dry-run`); None without one, or where it
    cannot say."""
    from mlxk.cli.control import server

    try:
        with server() as client:
            data = client.call("load", {"models": [name], "dry_run": True}, timeout_s=LOOK_S)
    except CliError:
        return None
    plans: list[dict[str, Any]] = data.get("models") or []
    return plans[0] if plans else None
