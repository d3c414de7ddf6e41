"""Where a server writes and listens: its home, its logs, its sockets, its port."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxk.cli.checks.finding import Finding, note, ok, problem
from mlxk.config import paths
from mlxk.config.units import format_size

if TYPE_CHECKING:
    from mlxk.config.instance import Instance
    from mlxk.config.settings import Settings

SCARCE_BYTES = 1_000_000_000
FULL_BYTES = 20_000_000
"""Below this logs and small files fail."""
MANY_LOG_BYTES = 500_000_000


def check_home() -> Iterator[Finding]:
    """Can the home be written, or made; and is there room?"""
    try:
        home = paths.home()
    except OSError as error:
        yield problem("home", str(error), "export MLXK_HOME=/some/directory")
        return
    existing = _nearest_existing(home)
    blame = f"{existing} belongs to user {_owner(existing)}" if _owner(existing) != os.getuid() else ""
    elsewhere = "set MLXK_HOME to a directory that you may write to"
    if not existing.is_dir():
        yield problem("home", f"{existing} is a file, and {home} must be a folder", elsewhere, path=str(home))
    elif not os.access(existing, os.W_OK | os.X_OK):
        why = f" ({blame})" if blame else ""
        yield problem("home", f"{existing} cannot be written{why}", elsewhere, path=str(home))
    else:
        yield _room(home, existing)


def _room(home: Path, existing: Path) -> Finding:
    free = shutil.disk_usage(existing).free
    facts: dict[str, Any] = {"path": str(home), "exists": existing == home, "free_bytes": free}
    new = "" if existing == home else " (will be made)"
    if free < FULL_BYTES:
        text = f"the disk of {home} is full: {format_size(free)} free"
        return problem("home", text, f"free some space: du -xh {existing} | sort -h | tail", **facts)
    if free < SCARCE_BYTES:
        return note("home", f"{home}: only {format_size(free)} free on its disk", **facts)
    return ok("home", f"{home}{new}, {format_size(free)} free", **facts)


def check_logs() -> Iterator[Finding]:
    """Logs rotate, so a large folder is that of many workers."""
    try:
        folder = paths.log_dir()
        with os.scandir(folder) as entries:
            sizes = [entry.stat().st_size for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        yield ok("logs", "none yet")
        return
    except OSError as error:
        if not isinstance(error, NotADirectoryError):  # that is the home's matter
            text = f"{paths.log_dir()} cannot be read ({error.strerror})"
            yield problem("logs", text, f"ls -ld {paths.log_dir()}")
        return
    total = sum(sizes)
    text, facts = f"{folder}: {len(sizes)} files, {format_size(total)}", {"size_bytes": total}
    if total > MANY_LOG_BYTES:
        yield note("logs", text, f"without a running server they may go: rm -r {folder}", **facts)
    else:
        yield ok("logs", text, **facts)


def check_sockets() -> Iterator[Finding]:
    """Is there a place with a short enough path for the server's sockets?"""
    from mlxk.supervisor.run_dir import has_room_for_a_socket, run_dir_bases

    usable = [
        base
        for base in run_dir_bases()
        if has_room_for_a_socket(base) and base.is_dir() and os.access(base, os.W_OK | os.X_OK)
    ]
    if usable:
        yield ok("sockets", f"in {usable[0]}", path=str(usable[0]))
    else:
        tried = ", ".join(str(base) for base in run_dir_bases())
        text = f"no place for them: {tried} cannot be written, or the path is too long"
        yield problem("sockets", text, "export TMPDIR=/some/short/directory")


def check_port(settings: Settings, instance: Instance | None) -> Iterator[Finding]:
    """Could `mlxk serve` listen where the configuration says? Bound for an instant, never listened on."""
    host, port = settings.host, settings.port
    if port == 0:
        yield ok("port", "any free one")
        return
    if instance is not None and instance.url.endswith(f":{port}"):
        yield ok("port", f"{port} is the running server's")
        return
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        advice = f"see who has it: lsof -nP -iTCP:{port} -sTCP:LISTEN; or choose another: mlxk serve --port N"
        text = f"{port} on {host} cannot be had: {error.strerror or error}"
        yield problem("port", text, advice, host=host, port=port)
    else:
        yield ok("port", f"{port} on {host} is free")


def _nearest_existing(path: Path) -> Path:
    """`path`, or the nearest of its parents that is there: the one that decides what can be made below."""
    for one in (path, *path.parents):
        if os.path.lexists(one):
            return one
    return Path("/")


def _owner(path: Path) -> int:
    try:
        return path.stat().st_uid
    except OSError:
        return os.getuid()
