"""Is a server running, does it answer, and is it the one that belongs to this version?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mlxk import __version__
from mlxk.cli.checks.finding import Finding, note, ok, problem
from mlxk.config.instance import Instance, read_instance
from mlxk.config.units import format_duration

ANSWER_LIMIT_S = 2.0
"""A healthy server answers within milliseconds, whatever its workers do."""
STARTING_S = 60.0
"""A server that has not said where it listens after so long will not do it any more."""


@dataclass(frozen=True, slots=True)
class ServerView:
    """What could be learned of this home's server."""

    instance: Instance | None = None
    """None: there is none that can be found."""
    pool: dict[str, Any] | None = None
    """`mlxk ps --json`; None if it did not answer."""
    findings: list[Finding] = field(default_factory=list)


def look_at_server() -> ServerView:
    """Never waits for a server that is stuck longer than ANSWER_LIMIT_S."""
    instance = read_instance()
    if instance is None:
        return ServerView(findings=[_no_instance()])
    who = f"pid {instance.pid}, {instance.url}"
    end = f"kill -9 {instance.pid} ends it and its workers; then: mlxk serve --detach"
    pool = None
    if _is_stopped(instance.pid):
        first = problem(
            "server",
            f"the server ({who}) is stopped by a signal or a debugger and answers nobody",
            f"kill -CONT {instance.pid} wakes it; {end}",
            pid=instance.pid,
        )
    else:
        pool, trouble = _ask(instance)
        if pool is None:
            first = problem(
                "server",
                f"the server ({who}) runs but does not answer: {trouble}",
                f"look again in a moment; if it stays so: {end}",
                pid=instance.pid,
            )
        else:
            uptime_s = pool.get("server", {}).get("uptime_s") or 0
            first = ok("server", f"running for {format_duration(uptime_s)}: {who}", pid=instance.pid)
    return ServerView(instance, pool, [first, *_version(instance), *_failures(pool or {})])


def _no_instance() -> Finding:
    from mlxk.supervisor.run_dir import lock_holder

    pid = lock_holder()
    if pid is None:
        return ok("server", "not running")
    if pid and _age_s(pid) < STARTING_S:
        return note("server", f"a server (pid {pid}) is just starting or ending", "look again in a moment")
    who = f"pid {pid}" if pid else "its pid is not known"
    return problem(
        "server",
        f"a server ({who}) holds the lock of this home, but instance.json does not say where it listens",
        f"end it with: kill {pid or 'PID'}; then: mlxk serve --detach",
        pid=pid or None,
    )


def _ask(instance: Instance) -> tuple[dict[str, Any] | None, str]:
    """The pool's data, or why there is none."""
    from mlxk.supervisor.control_client import (
        ControlError,
        ControlTimeoutError,
        ServerNotRunningError,
        connect_to,
    )

    try:
        with connect_to(instance) as client:
            client.call("ping", {}, timeout_s=ANSWER_LIMIT_S)
            return client.call("ps", {}, timeout_s=ANSWER_LIMIT_S), ""
    except ControlTimeoutError:
        return None, f"nothing came within {ANSWER_LIMIT_S:g} s"
    except (ControlError, ServerNotRunningError) as error:
        return None, str(error)


def _version(instance: Instance) -> Iterator[Finding]:
    if instance.version != __version__:
        yield problem(
            "server",
            f"the server runs mlxk {instance.version}, and {__version__} is installed: models that it has "
            "not loaded yet will be refused",
            "mlxk restart",
            running=instance.version,
            installed=__version__,
        )


def _failures(pool: dict[str, Any]) -> Iterator[Finding]:
    for model in pool.get("models", []):
        if model.get("state") in ("failed", "backoff"):
            name = str(model.get("name"))
            error = str(model.get("last_error") or "it says no reason").strip()
            yield problem(
                "server",
                f"the model {name} has {model['state'].replace('backoff', 'just failed')}: {error}",
                f"mlxk load {name} tries it again",
                model=name,
                last_error=error,
            )


def _is_stopped(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False


def _age_s(pid: int) -> float:
    import psutil

    try:
        return float(time.time() - psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0  # it has gone this moment
