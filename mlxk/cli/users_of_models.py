"""Ends what a running server does with models whose files are about to go."""

from __future__ import annotations

from collections.abc import Collection

from mlxk.cli.control import ANSWER_LIMIT_S, ask, server
from mlxk.cli.errors import CliError


def stop_users(names: Collection[str], *, now: bool) -> list[str]:
    """Stops those of these models that the server of this MLXK_HOME has loaded; returns their names.

    Drains them first, as `mlxk stop` does; `now` does not wait. Without a server there is nothing to do.
    Raises CliError if a model does not end.
    """
    try:
        with server() as client:
            data = client.call("ps", {}, timeout_s=ANSWER_LIMIT_S)
            loaded = [one["name"] for one in data["models"] if one["name"] in names and one.get("pid")]
            if not loaded:
                return []
            arguments = {"models": loaded, "all": False, "now": now, "timeout_s": None}
            stopped = ask(client, "stop", arguments, timeout_s=None)["models"]
            return [one["name"] for one in stopped if one.get("stopped")]
    except CliError as error:
        if error.type == "server_not_running":
            return []
        raise
