"""Workers of a front that was killed: found by what they are, never by pid alone, and ended.

The lifeline ends them within milliseconds; this sweep is for one that could not run its thread (a stopped
process, say). A worker is ours if its command line names our module and a socket whose directory is gone
or belongs to no living front.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import psutil

log = logging.getLogger("mlxk.lifecycle")


def sweep_leftovers() -> int:
    """End orphaned workers of this user and remove dead run directories; returns the number of processes."""
    ended = 0
    for process in psutil.process_iter(["pid", "ppid", "cmdline", "uids"]):
        info = process.info
        command = info.get("cmdline") or []
        uids = info.get("uids")
        if "mlxk.workers" not in command or uids is None or uids.real != os.getuid():
            continue
        if info.get("ppid") not in (0, 1) and _is_front(info.get("ppid")):
            continue
        with contextlib.suppress(psutil.Error):
            log.warning("ending the worker %d of a server that is gone", process.pid)
            process.kill()  # psutil compares the create time first, so a reused pid is safe
            ended += 1
            socket = next((part for part in command if part.startswith("ipc://")), "")
            directory = Path(socket.removeprefix("ipc://")).parent
            if directory.name.startswith("mlxk-"):
                for leftover in directory.glob("*"):
                    leftover.unlink(missing_ok=True)
                directory.rmdir()
    return ended


def _is_front(pid: int | None) -> bool:
    """The parent lives and is a server of ours (an adopting init or subreaper is not)."""
    try:
        return pid is not None and any("mlxk" in part for part in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False
