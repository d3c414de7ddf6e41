"""One reaper per child: the only place that waits for a process, and only for its own pid."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading


def watch_exit(pid: int) -> asyncio.Future[int]:
    """A future with the wait status of `pid`, a child of ours. The child is reaped when it is done."""
    if hasattr(os, "pidfd_open"):
        try:
            return _watch_by_pidfd(pid)
        except OSError:
            pass  # a kernel or sandbox without pidfd
    return _watch_by_thread(pid)


def _watch_by_pidfd(pid: int) -> asyncio.Future[int]:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()
    descriptor = os.pidfd_open(pid)

    def reap() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        # Still unreaped, so the number is still its own: what it started and left behind ends with it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not done.done():
            done.set_result(status)

    loop.add_reader(descriptor, reap)
    return done


def _watch_by_thread(pid: int) -> asyncio.Future[int]:
    """macOS: kqueue could do it too, but a waiting thread is simpler and as quick."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()

    def settle(status: int) -> None:
        if not done.done():
            done.set_result(status)

    def wait() -> None:
        _, status = os.waitpid(pid, 0)
        # A closed loop raises: the front is on its way out and nobody asks any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, status)

    threading.Thread(target=wait, name=f"reaper-{pid}", daemon=True).start()
    return done
