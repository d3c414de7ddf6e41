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

from mlxk.supervisor.reaper import Reaper

LIFELINE_FD = 3
"""Where a worker finds the read end of the front's lifeline pipe."""
RESET_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)
"""An inherited SIG_IGN (nohup, some CI runners) would make a worker deaf to the stop ladder."""


class Child:
    """A running process. `exited` is done when it has been reaped, with its wait status."""

    def __init__(self, pid: int, output_fd: int) -> None:
        """Raises OSError if the system refuses what it takes to wait for the process."""
        self.pid = pid
        self.output_fd = output_fd
        """Read end of its stdout and stderr. Owned by whoever reads it."""
        self._reaper = Reaper(pid)
        self.exited = self._reaper.exited

    def signal_group(self, number: int) -> bool:
        """Signal the child and its own children, from any thread; False if it has been reaped (its pid may
        be another's)."""
        return self._reaper.signal_group(number)


def spawn(arguments: Sequence[str], lifeline_read_fd: int, extra_env: Mapping[str, str]) -> Child:
    """Start `python -P ARGUMENTS` in its own session; raises OSError if the system refuses.

    -P keeps the working directory out of sys.path: a stray `mlx.py` there must not break a worker.
    """
    command = [sys.executable, "-P", *arguments]
    environment = {**os.environ, **extra_env}
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as childs:
        output_read, output_write = os.pipe()
        ours.callback(os.close, output_read)
        childs.callback(os.close, output_write)
        # Above the numbers that dup2 writes to, so that no source is overwritten before it is copied.
        lifeline = fcntl.fcntl(lifeline_read_fd, fcntl.F_DUPFD_CLOEXEC, 10)
        childs.callback(os.close, lifeline)
        output = fcntl.fcntl(output_write, fcntl.F_DUPFD_CLOEXEC, 10)
        childs.callback(os.close, output)
        os.set_blocking(output_read, False)
        pid = _spawn(command, environment, lifeline, output)
        try:
            child = Child(pid, output_read)
        except BaseException:  # nobody could ever wait for it
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        ours.pop_all()
    return child


def _spawn(command: list[str], environment: dict[str, str], lifeline: int, output: int) -> int:
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
        (os.POSIX_SPAWN_DUP2, lifeline, LIFELINE_FD),
    ]
    try:
        return os.posix_spawn(
            command[0],
            command,
            environment,
            file_actions=actions,
            setsid=True,
            setsigmask=(),  # the front blocks its signals, see signals.py
            setsigdef=RESET_SIGNALS,
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
