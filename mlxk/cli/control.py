"""Talking to the running server, for the verbs: the control client's errors become ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlxk import __version__
from mlxk.cli.errors import CliError, not_running

if TYPE_CHECKING:
    from mlxk.supervisor.control_client import ControlClient

ANSWER_LIMIT_S = 10.0
"""A healthy server answers `ping` and `ps` at once, whatever its workers do."""


@contextmanager
def server() -> Iterator[ControlClient]:
    """A client of the running server; what it raises inside the block leaves it as CliError."""
    from mlxk.supervisor.control_client import (
        ControlError,
        ControlTimeoutError,
        ServerNotRunningError,
        connect,
    )

    try:
        with connect() as client:
            yield client
    except ServerNotRunningError as error:
        raise _no_server(error) from error
    except ControlTimeoutError as error:
        raise CliError("timed_out", f"{error}; `mlxk doctor` says more") from error
    except ControlError as error:
        message = error.fault.message + _version_hint(error.fault.type)
        raise CliError(error.fault.type, message, error.fault.details) from error


def _no_server(error: Exception) -> CliError:
    from mlxk.supervisor.run_dir import lock_holder

    if pid := lock_holder():
        text = f"the server (pid {pid}) is starting, restarting or ending: try again in a moment"
        return CliError("server_not_running", text)
    return not_running(str(error))


def _version_hint(fault_type: str) -> str:
    """What is to be done if the two do not understand each other because one was upgraded."""
    from mlxk.config.instance import read_instance

    instance = read_instance() if fault_type in ("protocol_error", "invalid_request") else None
    if instance is None or instance.version == __version__:
        return ""
    return f" The server runs mlxk {instance.version}, this is {__version__}: mlxk restart"


def ask(client: ControlClient, verb: str, args: dict[str, Any], *, timeout_s: float | None) -> dict[str, Any]:
    """One call. Without a limit, a `ping` goes first: a server that is stuck is reported, not waited for."""
    from mlxk.supervisor.control_client import ControlTimeoutError

    if timeout_s is None:
        try:
            client.call("ping", {}, timeout_s=ANSWER_LIMIT_S)
        except ControlTimeoutError as error:
            raise CliError(
                "timed_out",
                f"the server (pid {client.pid}) has not answered for {ANSWER_LIMIT_S:g} s. "
                f"If it stays so, end it with: kill -9 {client.pid} (its workers end with it)",
            ) from error
    return client.call(verb, args, timeout_s=timeout_s)


def end_server(client: ControlClient, *, now: bool, timeout_s: float | None) -> dict[str, Any]:
    """Ask the server to end, and return when its process is gone: `{"models": [...], "server": True}`.

    Raises CliError `timed_out` if it still runs after `timeout_s` seconds (it goes on ending).
    """
    from mlxk.supervisor.control_client import ServerNotRunningError

    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    arguments = {"models": [], "all": False, "now": now, "timeout_s": timeout_s}
    # It is answered as soon as it is taken, and dropped with our socket if it is not: a server that stands
    # still for a moment must not be told of as one that goes on ending.
    answer_limit_s = None if timeout_s is None else max(timeout_s, ANSWER_LIMIT_S)
    try:
        data = ask(client, "stop", arguments, timeout_s=answer_limit_s)
    except ServerNotRunningError:
        data = {}  # it ended without a goodbye: that is what was asked for
    left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
    if not client.wait_gone(timeout_s=left_s):
        hint = "" if now else "; `mlxk stop --now` does not wait for what it still does"
        raise CliError("timed_out", f"the server (pid {client.pid}) still runs after {timeout_s:g} s{hint}")
    return {"models": data.get("models", []), "server": True}
