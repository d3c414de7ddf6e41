"""The worker's tie to the front: a pipe whose end means that the front is gone.

Works the same on Linux and macOS (which has no PDEATHSIG), and however the front died:
the kernel closes the write end for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading

EXIT_FRONT_GONE = 64
"""Exit code of a worker that ended because its front did. (The SIGTERM to its own group may be quicker.)"""


def start_lifeline(read_fd: int) -> threading.Thread:
    """Exit this process as soon as the pipe's other end is closed.

    Started before any heavy import, so that a front killed right after the spawn leaves
    nothing behind. `os._exit`: the engine thread may be inside a kernel and cannot be asked.
    """

    def watch() -> None:
        while True:
            try:
                if os.read(read_fd, 1) == b"":
                    break
            except InterruptedError:
                continue
            except OSError:
                break
        _end_own_children()
        os._exit(EXIT_FRONT_GONE)

    thread = threading.Thread(target=watch, name="lifeline", daemon=True)
    thread.start()
    return thread


def _end_own_children() -> None:
    """What this worker has started (code of a model may) would outlive it: nobody is there to end its group.
    Its own handler or default for SIGTERM does no harm to a process that ends in this very moment."""
    if os.getpgrp() == os.getpid():
        with contextlib.suppress(OSError):
            os.killpg(os.getpid(), signal.SIGTERM)
