"""Where a running server goes by other settings than those of this shell and this file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mlxk.cli.control import ANSWER_LIMIT_S, server
from mlxk.cli.errors import CliError

if TYPE_CHECKING:
    from mlxk.config.provenance import Entry

RELOAD, RESTART = "mlxk reload", "mlxk restart"


def differences(here: Iterable[Entry]) -> dict[str, Any] | None:
    """The `server` of `mlxk config --json`; None if none runs."""
    from mlxk.config.instance import read_instance

    instance = read_instance()
    if instance is None:
        return None
    facts: dict[str, Any] = {"pid": instance.pid, "url": instance.url, "differs": [], "models": []}
    facts["error"] = None
    try:
        with server() as client:
            told = client.call("config", {}, timeout_s=ANSWER_LIMIT_S)
    except CliError as error:
        return {**facts, "error": error.message}
    changes = told["changes"] or {}
    facts["error"] = told["error"]
    facts["models"] = list(changes.get("models", []))
    facts["differs"] = [
        difference
        for one in here
        if (difference := _difference(one, told["settings"].get(one.name), changes)) is not None
    ]
    return facts


def _difference(
    one: Entry, told: dict[str, Any] | None, changes: dict[str, list[str]]
) -> dict[str, Any] | None:
    from mlxk.config.fields import SERVER_FIELDS
    from mlxk.config.written import as_toml

    if told is None or told["value"] == one.value:
        return None
    field = next(each for each in SERVER_FIELDS if each.name == one.name)
    remedy = None
    if one.key in changes.get("needs_restart", ()):
        remedy = RESTART
    elif one.key in (*changes.get("applied", ()), *changes.get("next_load", ())):
        remedy = RELOAD
    return {
        "key": one.key,
        "name": one.name,
        "value": one.value,
        "written": one.written,
        "server_value": told["value"],
        "server_written": as_toml(field, told["value"]),
        "server_source": told["source"],
        "remedy": remedy,
    }
