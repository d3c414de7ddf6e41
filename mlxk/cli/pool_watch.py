"""Looking at the server again and again: for `mlxk ps --watch` and `mlxk top`."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mlxk.cli.control import ANSWER_LIMIT_S, server
from mlxk.cli.errors import CliError


@dataclass(frozen=True, slots=True)
class Look:
    """What the server has said, or why it has said nothing."""

    at: float
    """Unix seconds."""
    data: dict[str, Any] | None = None
    """As of `mlxk ps --json`."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """The last ones, oldest first."""
    error: CliError | None = None

    def trouble(self, interval_s: float) -> str | None:
        """Why there is nothing newer to show."""
        if self.error is not None:
            return f"{self.error.message} (waiting for it)"
        silent_s = time.time() - self.at - interval_s
        return f"the server has not answered for {silent_s:.0f} s" if silent_s > SILENT_S else None


SILENT_S = 3.0
"""What takes longer is no answer of a healthy server."""

Wait = Callable[[float], bool]
"""Waits so many seconds; True if nobody wants another look."""


def looks(interval_s: float, wait: Wait, *, recent_events: int = 0) -> Iterator[Look]:
    """A look each `interval_s` seconds. A server that ends is looked for until it is back; only one that is
    not there from the beginning is an error: CliError."""
    has_seen = False
    while True:
        try:
            with server() as client:
                while True:
                    began = time.monotonic()
                    data = client.call("ps", {}, timeout_s=ANSWER_LIMIT_S)
                    events = []
                    if recent_events:
                        asked = {"recent": recent_events, "follow": False}
                        reply = client.call("events", asked, timeout_s=ANSWER_LIMIT_S)
                        events = reply.get("events", [])
                    has_seen = True
                    yield Look(time.time(), data, events)
                    if wait(max(0.0, began + interval_s - time.monotonic())):
                        return
        except CliError as error:
            if not has_seen:
                raise
            yield Look(time.time(), error=error)
        if wait(interval_s):
            return


class Watcher:
    """Looks in a thread of its own: a screen stays alive while the server is silent. Context manager.

    `news` is a descriptor that can be read when there is another look; `take` then gives the last one.
    """

    def __init__(self, interval_s: float, *, recent_events: int = 0) -> None:
        self._over = threading.Event()
        self._looks = looks(interval_s, self._over.wait, recent_events=recent_events)
        self._last: Look | CliError | None = None
        self.news, self._told = os.pipe()
        for end in (self.news, self._told):
            os.set_blocking(end, False)
        self._thread = threading.Thread(target=self._run, name="pool watch", daemon=True)

    def take(self) -> Look | None:
        """The last look; None before the first. Raises CliError if there was no server to begin with."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.news, 4096)
        if isinstance(self._last, CliError):
            raise self._last
        return self._last

    def wait_for_first(self) -> None:
        """Raises CliError if there is no server."""
        select.select([self.news], [], [])
        self.take()

    def _run(self) -> None:
        try:
            for look in self._looks:
                self._last = look
                self._tell()
        except CliError as error:
            self._last = error
            self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._told, b"\0")

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(timeout=0.5)  # a server may be silent for long: the process ends without it
