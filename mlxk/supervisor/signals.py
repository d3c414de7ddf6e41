"""The server's signals, taken by a thread of their own.

They are blocked in all threads, and one waits for them (`sigwait`). So no line of other code is ever
interrupted: there is no KeyboardInterrupt in an import, in a `finally` or in asyncio.Runner (which would
cancel the main task on its own account), and a stuck event loop does not make the server deaf. Light: started
before the imports.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_S = 0.25
"""A SIGINT so soon after the last one is the same Ctrl-C once more: `timeout` signals its child and then the
whole process group, a shell script may do the same. People do not press twice so quickly."""
EXIT_OK = 0
EXIT_INTERRUPTED = 130

log = logging.getLogger("mlxk.lifecycle")


class SignalDesk:
    """`hand_over` says who takes the signals. Until then nothing has been made that could be left behind."""

    def __init__(self) -> None:
        self._take: Callable[[int], None] = leave_at_once
        self._taking = threading.Lock()
        self._closing = False
        self._interrupted_at = -math.inf
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)

    def hand_over(self, take: Callable[[int], None]) -> None:
        """From now on `take` is called, in the desk's thread. Returns when the one before is not at it."""
        with self._taking:
            self._take = take

    def _run(self) -> None:
        while True:
            number = signal.sigwait(SIGNALS)
            if self._closing:
                return
            if number == signal.SIGINT and self._is_echo():
                continue
            with self._taking:
                try:
                    self._take(number)
                except Exception:  # a mistake of ours must not make the server deaf
                    log.exception("signal %d was not carried out", number)

    def _is_echo(self) -> bool:
        """Of SIGINT only: a second SIGTERM changes nothing anyhow, and a second SIGHUP has something new."""
        now = time.monotonic()
        if now - self._interrupted_at < ECHO_S:
            return True
        self._interrupted_at = now
        return False


@contextlib.contextmanager
def signal_desk() -> Iterator[SignalDesk]:
    """For the main thread, before any other is started: threads inherit what is blocked."""
    desk = SignalDesk()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        if handlers[number] is signal.SIG_IGN:  # nohup: macOS would drop it instead of keeping it for us
            signal.signal(number, signal.SIG_DFL)
    if (on_child := signal.getsignal(signal.SIGCHLD)) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else the system reaps our children behind our back
    desk._thread.start()
    try:
        yield desk
    finally:
        desk._closing = True
        assert desk._thread.ident is not None
        signal.pthread_kill(desk._thread.ident, signal.SIGTERM)  # wakes it
        desk._thread.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.signal(signal.SIGCHLD, on_child)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def leave_at_once(number: int) -> None:
    """During the imports: nothing has been made yet that must be ended. A SIGHUP has nothing to reload."""
    if number == signal.SIGINT:
        os._exit(EXIT_INTERRUPTED)
    if number == signal.SIGTERM:
        os._exit(EXIT_OK)


def ignore(number: int) -> None:
    """Everything has ended, only the process has not: there is nothing to interrupt any more."""
