"""What a test may leave behind: nothing. Compares processes, socket files and threads before and after."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

PATIENCE_S = 5.0
"""An ended process is reaped within milliseconds; a loaded machine may take longer."""

standing_servers: set[int] = set()
"""Pids of servers that outlive one test on purpose (module-wide fixtures); their workers come and go."""

_strangers: set[int] = set()
"""Living processes that have nothing to do with us. Nobody becomes ours later; to look at each of them again
before and after each of some thousand tests took a sixth of the suite's time."""


@dataclass(frozen=True)
class Traces:
    processes: frozenset[tuple[int, float]]
    threads: frozenset[int]
    files: frozenset[Path]


def take_traces(socket_root: Path) -> Traces:
    return Traces(
        frozenset(_our_processes(socket_root)),
        frozenset(thread.ident or 0 for thread in threading.enumerate()),
        frozenset(socket_root.glob("mlxk-*")),
    )


def describe_leaks(before: Traces, socket_root: Path) -> list[str]:
    """What is there now and was not before, after waiting a moment for it to go."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        leaks = _leaks(before, take_traces(socket_root))
        if not leaks or time.monotonic() > deadline:
            return leaks
        time.sleep(0.02)  # there is no event for "a stranger's process has gone"


def _leaks(before: Traces, now: Traces) -> list[str]:
    leaks = []
    for pid, created in now.processes - before.processes:
        try:
            process = psutil.Process(pid)
            if process.create_time() == created:
                leaks.append(f"process {pid} ({process.status()}): {' '.join(process.cmdline())}")
        except psutil.Error:
            continue
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    leaks += [f"thread {names[i]}" for i in now.threads - before.threads if i in names]
    return leaks + [f"socket directory {path}" for path in now.files - before.files if not _standing(path)]


def _standing(path: Path) -> bool:
    """The directory belongs to a server that outlives the test."""
    owners = (connection.laddr for pid in standing_servers for connection in _unix_sockets(pid))
    return any(str(path) in str(address) for address in owners)


def _unix_sockets(pid: int) -> list[object]:
    try:
        return list(psutil.Process(pid).net_connections("unix"))
    except psutil.Error:
        return []


def _our_processes(socket_root: Path) -> list[tuple[int, float]]:
    """Our children, and what they started or left orphaned (it has our TMPDIR, unlike the processes of other
    sessions on this machine); not those of a standing server."""
    found = []
    living = set(psutil.pids())
    _strangers.intersection_update(living)  # a pid that is given anew is looked at anew
    for pid in living - _strangers - {os.getpid()}:
        try:
            process = psutil.Process(pid)
            if process.ppid() != os.getpid():
                environment = process.environ()
                if not environment:  # it has none, or is just being started: no answer yet
                    continue
                if environment.get("TMPDIR") != str(socket_root):
                    _strangers.add(pid)
                    continue
            if not _of_standing_server(process):
                found.append((pid, process.create_time()))
        except (psutil.ZombieProcess, OSError):
            continue
        except psutil.Error:  # another user's, gone meanwhile, or listed but not to be seen from here
            _strangers.add(pid)
    return found


def _of_standing_server(process: psutil.Process) -> bool:
    return process.pid in standing_servers or any(
        parent.pid in standing_servers for parent in process.parents()
    )
