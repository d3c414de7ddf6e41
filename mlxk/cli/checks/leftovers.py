"""What servers that were killed have left: processes, directories, files. Found, and removed on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mlxk.cli.checks.finding import Finding, note, ok, problem
from mlxk.config.instance import is_running, read_recorded
from mlxk.config.paths import instance_file
from mlxk.config.units import format_size

if TYPE_CHECKING:
    from mlxk.supervisor.leftovers import WorkerProcess


def check_leftovers(workers: Iterable[WorkerProcess]) -> Iterator[Finding]:
    """`workers`: all worker processes of this user."""
    from mlxk.supervisor.leftovers import find_leftovers
    from mlxk.supervisor.memory import process_bytes

    found = find_leftovers(workers)
    for worker in found.orphans:
        held = process_bytes(worker.pid)
        yield problem(
            "leftovers",
            f"a worker has outlived its server: pid {worker.pid} holds {format_size(held)}",
            "mlxk doctor --fix ends it, and so does the next mlxk serve",
            pid=worker.pid,
            memory_bytes=held,
        )
    files = [str(path) for path in (*found.directories, *found.drafts)]
    if stale := _stale_instance():
        files.append(str(instance_file()))
    if files:
        yield note(
            "leftovers",
            f"{_count(len(files), 'file')} of servers that are gone: {', '.join(files)}"
            + (f" ({stale})" if stale else ""),
            "mlxk doctor --fix removes them, and so does the next mlxk serve",
            files=files,
        )
    if not found.orphans and not files:
        yield ok("leftovers", "no process and no file of a server that is gone")


def remove_leftovers() -> list[str]:
    """End orphans and remove stale files; returns a line for each thing that is gone now."""
    from mlxk.supervisor.leftovers import end_processes, find_leftovers, remove_files

    found = find_leftovers()
    ended = end_processes(worker.process for worker in found.orphans)
    removed = remove_files(found)
    lines = [f"ended the worker process {pid}" for pid in ended]
    lines += [f"removed {path}" for path in removed]
    if _stale_instance() and _remove_stale_instance():
        lines.append(f"removed {instance_file()}")
    return lines


def _stale_instance() -> str:
    """Why instance.json is of no use; empty if it is, or if there is none."""
    from mlxk.supervisor.run_dir import lock_holder

    path = instance_file()
    if not path.is_file() or lock_holder() is not None:
        return ""  # with a server behind the lock this is `check server`'s matter
    recorded = read_recorded()
    if recorded is None:
        return f"{path.name} cannot be understood"
    return "" if is_running(recorded) else f"{path.name} speaks of pid {recorded.pid}, which is no server"


def _remove_stale_instance() -> bool:
    """Under the lock: a server that starts this very moment keeps its own file."""
    from mlxk.supervisor.run_dir import InstanceLock, StartError

    lock = InstanceLock()
    try:
        if not lock.acquire():
            return False
        instance_file().unlink(missing_ok=True)
        return True
    except (StartError, OSError):
        return False
    finally:
        lock.release()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
