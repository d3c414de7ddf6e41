"""One reaper per child: the only place that waits for a process, and only for its own pid.

An end is noticed without reaping (pidfd on Linux, a waiting thread elsewhere); the reap itself is the event
loop's. Until then the pid and its group cannot belong to anybody else, so what the child left behind is
killed first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import sys
import threading

log = logging.getLogger("mlxk.pool")

UNKNOWN_STATUS = 255 << 8
"""Exit code 255: what a shell says of such a child."""


class Reaper:
    """`exited` is done when the child has been reaped, with its wait status."""

    def __init__(self, pid: int) -> None:
        """Raises OSError if neither way of waiting can be had."""
        self._pid = pid
        self._reaped = False
        self._signalling = threading.Lock()
        """Signals come from other threads too: none may fall between the reap and the note of it."""
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        if not self._watch_by_pidfd():
            self._watch_by_thread()

    def signal_group(self, number: int) -> bool:
        """Signal the child and its own children, from any thread; False if it has been reaped."""
        with self._signalling:
            return not self._reaped and self._signal(number)

    def _signal(self, number: int) -> bool:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)  # it leads its own session and so its own group
            return True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)
            return True
        return False

    def _watch_by_pidfd(self) -> bool:
        try:
            descriptor = os.pidfd_open(self._pid)
        except (AttributeError, OSError):
            return False  # macOS; a kernel or sandbox without pidfd; no descriptor left

        def on_end() -> None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
            self._settle(self._reap())

        self._loop.add_reader(descriptor, on_end)
        return True

    def _watch_by_thread(self) -> None:
        def wait() -> None:
            wait_for_end(self._pid)
            try:
                self._loop.call_soon_threadsafe(lambda: self._settle(self._reap()))
            except RuntimeError:  # the loop is closed: the front is on its way out and nobody asks any more
                self._reap()

        try:
            threading.Thread(target=wait, name=f"reaper-{self._pid}", daemon=True).start()
        except RuntimeError as error:
            raise OSError(f"no thread can be started: {error}") from error

    def _reap(self) -> int:
        with self._signalling:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)  # its children, which would hold its memory or its pipes
            self._reaped = True  # also if that fails: then the pid may be another's already
            try:
                _, status = os.waitpid(self._pid, 0)
            except ChildProcessError:  # somebody else's waitpid(-1), or SIGCHLD is ignored
                log.error("process %d was reaped by somebody else: how it ended is not known", self._pid)
                return UNKNOWN_STATUS
        return status

    def _settle(self, status: int) -> None:
        if not self.exited.done():
            self.exited.set_result(status)


def wait_for_end(pid: int) -> None:
    """Blocks until `pid`, a child of ours, has ended. It is not reaped."""
    if sys.platform == "darwin" and sys.version_info < (3, 13):
        _wait_by_kqueue(pid)  # os.waitid came to macOS with Python 3.13
    else:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


if sys.platform == "darwin":

    def _wait_by_kqueue(pid: int) -> None:
        queue = select.kqueue()
        flags = select.KQ_EV_ADD | select.KQ_EV_ONESHOT
        event = select.kevent(pid, select.KQ_FILTER_PROC, flags, select.KQ_NOTE_EXIT)
        try:
            with contextlib.suppress(ProcessLookupError):  # it had ended before we asked
                queue.control([event], 1, None)
        finally:
            queue.close()
