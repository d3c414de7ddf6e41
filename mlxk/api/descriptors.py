"""How many connections there may be: as many as the process may have open files, less some of its own.

At the limit itself `accept` fails, and so does everything else that opens a file: a worker's pipes, a log,
the control socket. So HTTP stops short of it and says so to the client.
"""

from __future__ import annotations

import resource

WANTED = 65_536
MAC_LIMIT = 10_240
"""macOS takes no more (OPEN_MAX), whatever its hard limit says; its soft one is 256 at first."""
KEPT_FREE = 128
"""For workers (about ten each), logs, sockets and libraries."""
FEWEST = 16


def raise_limit() -> int:
    """Raise the soft limit of open files as far as may be useful and is allowed; returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (WANTED, MAC_LIMIT):
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and target > soft:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            except (OSError, ValueError):
                continue
            return target
    return WANTED if soft == resource.RLIM_INFINITY else soft


def max_connections() -> int:
    """Raises the limit first."""
    limit = raise_limit()
    return max(FEWEST, limit - max(KEPT_FREE, limit // 8))
