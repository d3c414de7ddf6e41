"""Run a client that nobody here wrote, and see that it talks to this machine only.

    python -m tests.e2e.localhost_only MODULE [ARGUMENTS]

runs MODULE as `python -m` would. An attempt to reach another machine fails in the client, and makes the exit
status `FOREIGN`.
"""

from __future__ import annotations

import os
import runpy
import sys
from typing import Any

FOREIGN = 86
_LOCAL = ("127.0.0.1", "::1", "localhost")


def watch_connections() -> list[str]:
    """From now on in this process: names and addresses elsewhere are refused, and noted in the list."""
    foreign: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo":
            host = arguments[0]
        elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
            host = arguments[1][0]
        else:
            return
        host = host.decode() if isinstance(host, bytes) else host
        if host is not None and host not in _LOCAL:
            foreign.append(f"{event} {host}")
            raise OSError(f"{event} {host}: not in a test")

    sys.addaudithook(hook)
    return foreign


def main() -> None:
    foreign = watch_connections()
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        if foreign:
            print("reached out to", foreign, file=sys.stderr, flush=True)
            sys.stdout.flush()
            os._exit(FOREIGN)


if __name__ == "__main__":
    main()
