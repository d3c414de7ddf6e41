"""How many of the process's descriptors HTTP may have, and raising the limit of all of them.

At the limit itself everything fails that opens a file: a spawn's pipes, a log, the store. And libzmq ends the
whole process when it cannot accept a worker or a control client (EMFILE in ipc_listener.cpp). So the highest
descriptors below the limit are never HTTP's. The system gives the lowest free number to whatever is opened,
so looking at a new connection's number is enough, and exact: whatever HTTP holds lies below the reserve.
"""

from __future__ import annotations

import logging
import resource

from mlxk.config.errors import ConfigError

WANTED = 65_536
MAC_LIMIT = 10_240
"""macOS takes no more (OPEN_MAX), whatever its hard limit says; its soft one is 256 at first."""
MIN_RESERVE = 128
"""For workers (about five each, ten while one starts), control clients, logs, the store's files."""
FEWEST = 128
"""With fewer the server does not start: half of them are reserved, and some it holds itself."""
OWN = 40
"""About so many the server holds before anybody comes."""
FEW = 1024
"""Below this the log says what it means."""

_log = logging.getLogger("mlxk.api")


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


def http_ceiling() -> int:
    """The first descriptor number that no HTTP connection may have. Of the limit as it is now: it can be
    changed from outside."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        limit = WANTED
    return limit - min(max(MIN_RESERVE, limit // 8), limit // 2)


def prepare_descriptors() -> None:
    """Raises the limit. Raises ConfigError where it stays too low for a server, with what to do."""
    limit = raise_limit()
    advice = "allow more where it is started: `ulimit -n 10240`, or the service's limit"
    if limit < FEWEST:
        raise ConfigError(f"only {limit} files may be open at once, and a server needs {FEWEST}: {advice}")
    if limit < FEW:
        _log.warning(
            "only %d files may be open at once: beyond about %d connections clients are refused; %s",
            limit,
            http_ceiling() - OWN,
            advice,
        )
