"""Ctrl-C while modules are read in."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interrupt_later() -> Iterator[None]:
    """A Ctrl-C in the block is a KeyboardInterrupt at its end. Python loses one that comes while it imports:
    the import system has callbacks in which an exception is printed and ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def remember(*_: object) -> None:
        nonlocal came
        came = True

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # started in the background of a script
        yield
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
