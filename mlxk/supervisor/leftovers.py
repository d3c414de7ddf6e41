"""What a front that was killed leaves behind: found by what it is, never by pid alone, and ended.

The lifeline ends its workers within milliseconds; this is for one that could not run its thread (a stopped
process, say), and for the files. A worker is an orphan when nobody listens at the socket that its command
line names and its parent is no server. The first alone could be said of a living front whose socket file was
removed by a cleaner of /tmp, the second of one that was started in an unusual way. Light, as `mlxk doctor`
uses it too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from mlxk.config import paths
from mlxk.supervisor.run_dir import PREFIX, run_dir_bases

log = logging.getLogger("mlxk.lifecycle")

WORKER_SOCKET = "s"
END_GRACE_S = 2.0
"""Between asking an orphan to end and killing it. Its lifeline ends it at once, if it can run at all."""
ABANDONED_AFTER_S = 3600.0
"""A run directory that has been empty for so long: its front died before it bound its sockets."""
_HAS_PROC = os.path.exists("/proc/self/cmdline")
_EMPTY_NAME = re.compile(rf"{PREFIX}[a-z0-9_]{{8}}")
"""What mkdtemp makes of our prefix."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A worker of this user, whoever's it is. `process` carries its create time: it is never mistaken."""

    process: psutil.Process
    address: Path
    """Its front's socket."""
    orphaned: bool

    @property
    def pid(self) -> int:
        return int(self.process.pid)


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What nobody needs any more."""

    orphans: tuple[WorkerProcess, ...] = ()
    directories: tuple[Path, ...] = ()
    """Run directories of dead fronts."""
    drafts: tuple[Path, ...] = ()
    """Instance files that were never put in place, as their front was killed while it wrote."""


def sweep_leftovers() -> int:
    """End this user's orphaned workers and remove dead files; returns the number of processes that ended.
    For a server that holds the lock of its home; it can start also where this cannot look."""
    try:
        found = find_leftovers()
    except (OSError, psutil.Error) as error:
        log.warning("leftovers of earlier servers could not be looked for: %s", error)
        return 0
    for worker in found.orphans:
        log.warning("ending the worker %d of a server that is gone", worker.pid)
    ended = end_processes(worker.process for worker in found.orphans)
    remove_files(found)
    return len(ended)


def find_leftovers(workers: Iterable[WorkerProcess] | None = None) -> Leftovers:
    """Looks, and changes nothing."""
    workers = tuple(find_workers() if workers is None else workers)
    in_use = {worker.address.parent for worker in workers if not worker.orphaned}
    directories = (
        directory
        for base in run_dir_bases()
        for directory in sorted(base.glob(f"{PREFIX}*"))
        if directory not in in_use and _is_dead(directory)
    )
    orphans = tuple(worker for worker in workers if worker.orphaned)
    return Leftovers(orphans, tuple(directories), tuple(_dead_drafts()))


def find_workers() -> Iterator[WorkerProcess]:
    """All worker processes of this user, also those of other servers."""
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            if (address := _worker_address(pid)) is None:
                continue
            process = psutil.Process(pid)
            if process.uids().real == os.getuid() and process.status() != psutil.STATUS_ZOMBIE:
                orphaned = not is_answered(address) and not _is_server(process.parent())
                yield WorkerProcess(process, address, orphaned)


def end_processes(processes: Iterable[psutil.Process]) -> list[int]:
    """End them with their groups, all at once; returns the pids that are gone.

    Asked first, because a SIGKILL can strand memory that Metal had wired, and woken, because what is stopped
    by a signal cannot even notice that its front is gone.
    """
    asked = list(processes)
    for process in asked:
        _signal(process, signal.SIGTERM)
        _signal(process, signal.SIGCONT)
    alive = _wait_gone(asked, END_GRACE_S)
    for process in alive:
        _signal(process, signal.SIGKILL)
    alive = _wait_gone(alive, END_GRACE_S)
    return [process.pid for process in asked if process not in alive]


def remove_files(found: Leftovers) -> list[Path]:
    """Remove the files among `found`; returns what is gone."""
    for directory in found.directories:
        shutil.rmtree(directory, ignore_errors=True)
    for draft in found.drafts:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return [path for path in (*found.directories, *found.drafts) if not os.path.lexists(path)]


def is_answered(path: Path) -> bool:
    """Somebody listens on this Unix socket. In doubt, yes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _worker_address(pid: int) -> Path | None:
    """The socket that a worker's command line names; None if this is no worker's."""
    command = _command(pid)
    if b"mlxk.workers" not in command:
        return None
    address = next((word for word in command if word.startswith(b"ipc://")), None)
    return None if address is None else Path(os.fsdecode(address.removeprefix(b"ipc://")))


def _command(pid: int) -> list[bytes]:
    """A process's words. Read by hand where that is a single read: with thousands of processes psutil's way
    (which also takes the create time of each) would be felt at every start."""
    if _HAS_PROC:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return [os.fsencode(word) for word in psutil.Process(pid).cmdline()]


def _is_server(process: psutil.Process | None) -> bool:
    """A front, and not whoever adopts orphans: that may be a front too, as the first process of a container.
    (A zombie is none: its command line is empty.)"""
    if process is None or process.pid == 1:
        return False
    try:
        command = process.cmdline()
    except psutil.AccessDenied:
        return False  # another user's: init, on macOS
    return "serve" in command and any("mlxk" in word for word in command)


def _signal(process: psutil.Process, number: int) -> None:
    """To its group, which a worker leads. Its create time is checked: the pid may be another's by now."""
    with contextlib.suppress(psutil.Error, OSError):
        if not process.is_running():
            return
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)


def _wait_gone(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that still live then. They are nobody's children here, so there is no event to wait on; and a
    zombie is gone, however long its init takes."""
    deadline = time.monotonic() + timeout_s
    while (alive := [process for process in processes if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return alive


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _is_dead(directory: Path) -> bool:
    """A run directory of ours at whose socket nobody listens. One without a socket may be that of a front
    which is just starting: only its age tells."""
    address = directory / WORKER_SOCKET
    try:
        facts = directory.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
            return False
        if address.is_socket():
            return not is_answered(address)
        old = time.time() - facts.st_mtime > ABANDONED_AFTER_S
        return old and _EMPTY_NAME.fullmatch(directory.name) is not None and not os.listdir(directory)
    except OSError:
        return False


def _dead_drafts() -> Iterator[Path]:
    instance = paths.instance_file()
    for draft in sorted(instance.parent.glob(f"{instance.name}.*")):
        writer = draft.name.removeprefix(f"{instance.name}.")
        if writer.isdecimal() and not psutil.pid_exists(int(writer)):
            yield draft
