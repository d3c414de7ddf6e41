"""One spawned interpreter: started in a session of its own, signalled as a group, never after its reap."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from mlxk.supervisor.reaper import watch_exit

LIFELINE_FD = 3
"""Where a worker finds the read end of the front's lifeline pipe."""
RESET_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)
"""An inherited SIG_IGN (nohup, some CI runners) would make a worker deaf to the stop ladder."""


class Child:
    """A running process. `exited` is done when it has been reaped, with its wait status."""

    def __init__(self, pid: int, output_fd: int) -> None:
        self.pid = pid
        self.output_fd = output_fd
        """Read end of its stdout and stderr. Owned by whoever reads it."""
        self.exited = watch_exit(pid)

    def signal_group(self, number: int) -> bool:
        """Signal the child and its own children; False if it has been reaped (its pid may be another's)."""
        if self.exited.done():
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)  # it leads its own session and so its own group
            return True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


def spawn(arguments: Sequence[str], lifeline_read_fd: int, extra_env: Mapping[str, str]) -> Child:
    """Start `python -P ARGUMENTS` in its own session; raises OSError if the system refuses.

    -P keeps the working directory out of sys.path: a stray `mlx.py` there must not break a worker.
    """
    command = [sys.executable, "-P", *arguments]
    environment = {**os.environ, **extra_env}
    output_read, output_write = os.pipe()
    # Above the numbers that dup2 writes to, so that no source is overwritten before it is copied.
    lifeline = fcntl.fcntl(lifeline_read_fd, fcntl.F_DUPFD_CLOEXEC, 10)
    output = fcntl.fcntl(output_write, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(output_write)
    try:
        pid = _spawn(command, environment, lifeline, output)
    except BaseException:
        os.close(output_read)
        raise
    finally:
        os.close(lifeline)
        os.close(output)
    os.set_blocking(output_read, False)
    return Child(pid, output_read)


def _spawn(command: list[str], environment: dict[str, str], lifeline: int, output: int) -> int:
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
        (os.POSIX_SPAWN_DUP2, lifeline, LIFELINE_FD),
    ]
    try:
        return os.posix_spawn(
            command[0], command, environment, file_actions=actions, setsid=True, setsigdef=RESET_SIGNALS
        )
    except NotImplementedError:  # a libc without POSIX_SPAWN_SETSID
        return _spawn_by_subprocess(command, environment, lifeline, output)


def _spawn_by_subprocess(command: list[str], environment: dict[str, str], lifeline: int, output: int) -> int:
    """The same through subprocess, which keeps the descriptor's number (this process never touched MLX)."""
    command = [str(lifeline) if part == str(LIFELINE_FD) else part for part in command]
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        pass_fds=(lifeline,),
    )
    process.returncode = 0  # our reaper waits for it; Popen's destructor must not
    return process.pid


class Lifeline:
    """The pipe whose write end only the front holds: its death, however it comes, is every worker's EOF."""

    def __init__(self) -> None:
        self.read_fd, self._write_fd = os.pipe()

    def close(self) -> None:
        """Idempotent: a second close could end somebody else's new descriptor of the same number."""
        for descriptor in (self.read_fd, self._write_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self.read_fd = self._write_fd = -1


async def wait_all_exited(children: Sequence[Child], timeout_s: float) -> None:
    """Wait until all are reaped, at most `timeout_s`."""
    pending = [child.exited for child in children if not child.exited.done()]
    if pending:
        await asyncio.wait(pending, timeout=timeout_s)
