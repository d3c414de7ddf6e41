"""The worker's tie to the front: a pipe whose end means that the front is gone.

Works the same on Linux and macOS (which has no PDEATHSIG), and however the front died:
the kernel closes the write end for it.
"""

from __future__ import annotations

import os
import threading

EXIT_FRONT_GONE = 64
"""Exit code of a worker that ended because its front did."""


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
        os._exit(EXIT_FRONT_GONE)

    thread = threading.Thread(target=watch, name="lifeline", daemon=True)
    thread.start()
    return thread
