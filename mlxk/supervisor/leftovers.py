"""What a front that was killed leaves behind: found by what it is, never by pid alone, and ended.

The lifeline ends its workers within milliseconds; this sweep is for one that could not run its thread (a
stopped process, say), and for the directory of its sockets. Whether a front lives is asked at its socket:
nobody listens there any more once it is gone, whoever has adopted its workers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
from pathlib import Path

import psutil

from mlxk.supervisor.run_dir import PREFIX, run_dir_bases

log = logging.getLogger("mlxk.lifecycle")

WORKER_SOCKET = "s"


def sweep_leftovers() -> int:
    """End this user's orphaned workers and remove dead run directories; returns the number of processes."""
    ended = sum(_end_if_orphan(process) for process in psutil.process_iter(["cmdline", "uids"]))
    for base in run_dir_bases():
        for directory in base.glob(f"{PREFIX}*"):
            _remove_if_dead(directory)
    return ended


def _end_if_orphan(process: psutil.Process) -> bool:
    command = process.info.get("cmdline") or []
    uids = process.info.get("uids")
    if "mlxk.workers" not in command or uids is None or uids.real != os.getuid():
        return False
    address = next((part for part in command if part.startswith("ipc://")), None)
    if address is None or _is_answered(Path(address.removeprefix("ipc://"))):
        return False
    with contextlib.suppress(psutil.Error):
        log.warning("ending the worker %d of a server that is gone", process.pid)
        process.kill()  # psutil compares the create time first, so a reused pid is safe
        return True
    return False


def _remove_if_dead(directory: Path) -> None:
    """Without a socket in it, it may be that of a front which is just starting."""
    address = directory / WORKER_SOCKET
    with contextlib.suppress(OSError):
        if directory.stat().st_uid == os.getuid() and address.is_socket() and not _is_answered(address):
            shutil.rmtree(directory, ignore_errors=True)


def _is_answered(path: Path) -> bool:
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
