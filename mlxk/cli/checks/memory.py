"""What the machine's memory is held by. The platform branches are the two functions at the end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mlxk.cli.checks.finding import Finding, note, ok
from mlxk.cli.checks.server import ServerView
from mlxk.config.units import format_size

if TYPE_CHECKING:
    from mlxk.supervisor.leftovers import WorkerProcess

LOW_SHARE = 0.05
"""Less than this part of the machine's memory free: the next load will hurt."""
SWAP_SHARE = 0.10
"""More than this part of the machine's memory in swap: weights are read back from disk for each token."""
WIRED_SHARE = 0.5
"""More than this part wired although no model is loaded: somebody's, perhaps stranded by a kill."""


def check_memory(server: ServerView, workers: Iterable[WorkerProcess]) -> Iterator[Finding]:
    """`workers`: all worker processes of this user; orphans are told by the leftovers' check."""
    import psutil

    machine = psutil.virtual_memory()
    holders = [] if server.instance is None else list(_holders(server, workers))
    models = [holder for holder in holders if holder["model"] is not None]
    held = sum(holder["memory_bytes"] for holder in holders)
    free = f"{format_size(machine.available)} of {format_size(machine.total)} available"
    named = ", ".join(f"{one['model']} {format_size(one['memory_bytes'])}" for one in models)
    held_text = f"; models hold {format_size(held)}" + (f" ({named})" if named else "") if holders else ""
    facts = {
        "total_bytes": machine.total,
        "available_bytes": machine.available,
        "processes": holders,
        "wired_limit_bytes": _wired_limit_bytes(),
    }
    if machine.available < LOW_SHARE * machine.total:
        yield note("memory", f"only {free}{held_text}", "mlxk stop MODEL frees what a model holds", **facts)
    else:
        yield ok("memory", f"{free}{held_text}", **facts)
    yield from _strays(holders, answered=server.pool is not None)
    yield from _swap(machine.total)
    yield from _wired(machine, loaded=bool(holders))


def _holders(server: ServerView, workers: Iterable[WorkerProcess]) -> Iterator[dict[str, Any]]:
    """The processes of this server, with the model that each holds (None: none that `mlxk ps` knows)."""
    import psutil

    from mlxk.supervisor.memory import process_bytes

    assert server.instance is not None
    pool = server.pool or {}
    model_of = {model.get("pid"): str(model.get("name")) for model in pool.get("models", [])}
    spare = ((pool.get("server") or {}).get("spare") or {}).get("pid")
    for worker in workers:
        try:
            if worker.process.ppid() != server.instance.pid:
                continue
        except psutil.Error:
            continue
        yield {
            "pid": worker.pid,
            "model": model_of.get(worker.pid),
            "spare": worker.pid == spare,
            "memory_bytes": process_bytes(worker.pid),
        }


def _strays(holders: list[dict[str, Any]], *, answered: bool) -> Iterator[Finding]:
    """A worker that holds no model any more is about to end. One that stays is named here."""
    for one in holders if answered else []:
        if one["model"] is None and not one["spare"]:
            yield note(
                "memory",
                f"the process {one['pid']} of the server holds {format_size(one['memory_bytes'])} and no "
                "model that `mlxk ps` shows",
                f"it should be gone in a moment; if it stays: kill -9 {one['pid']}",
                **one,
            )


def _swap(total_bytes: int) -> Iterator[Finding]:
    import psutil

    try:
        used = int(psutil.swap_memory().used)
    except (OSError, RuntimeError):  # a container may hide it
        return
    if used > SWAP_SHARE * total_bytes:
        yield note(
            "memory",
            f"{format_size(used)} are in swap: a model that does not fit in memory answers very slowly",
            "mlxk stop MODEL, or less for all of them: mlxk serve --max-memory SIZE",
            swap_bytes=used,
        )


def _wired(machine: Any, *, loaded: bool) -> Iterator[Finding]:
    wired = _wired_bytes(machine)
    if wired is not None and not loaded and wired > WIRED_SHARE * machine.total:
        yield note(
            "memory",
            f"{format_size(wired)} are wired although no model is loaded: another program's, or stranded "
            "when a process that used the GPU was killed",
            "if no other program uses the GPU, only a restart of the Mac gives it back",
            wired_bytes=wired,
        )


def _wired_bytes(machine: Any) -> int | None:
    """Memory that cannot be swapped out: "Pages wired down" of vm_stat. macOS only."""
    return int(machine.wired) if sys.platform == "darwin" else None


def _wired_limit_bytes() -> int | None:
    """`sysctl iogpu.wired_limit_mb`: how much the GPU may wire; None where there is no such setting, or where
    it is 0, the system's own choice. macOS only."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb"]
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=1, check=True)
            return int(done.stdout) * 1024 * 1024 or None
    return None
