"""What a running server goes by, for `mlxk config`: it may have flags, and variables of another shell."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from mlxk.config.errors import ConfigError
from mlxk.config.fields import SERVER_FIELDS
from mlxk.config.provenance import origin_of
from mlxk.config.reload import compare
from mlxk.config.settings import Settings
from mlxk.supervisor.reloading import ReadSettings


async def describe_configuration(settings: Settings, read: ReadSettings | None) -> dict[str, Any]:
    """`settings`: value, source and origin of each; `models`: names of tables; `changes`: what a reload would
    do now (the fields of `Changes`), or null with the `error` that it would end with. No secrets."""
    changes, error = None, None
    if read is not None:
        try:
            changes = asdict(compare(settings, await asyncio.to_thread(read)))
        except ConfigError as mistake:
            error = str(mistake)
    return {
        "settings": {
            one.name: {
                "value": getattr(settings, one.name),
                "source": settings.sources.get(one.name, "default"),
                "origin": origin_of(settings.sources.get(one.name, "default")),
            }
            for one in SERVER_FIELDS
        },
        "models": sorted(settings.models),
        "changes": changes,
        "error": error,
    }
