"""What was done to the server, and when: an error that a client sees must have its cause in here.

A cause counts for a request if it was at work while the request ran. How long each kind stays at work after
it was done is in `EFFECT_S`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ANY = "*"
"""For a disturbance of the server as a whole."""
EFFECT_S = {
    "kill": 3.0,
    "term": 3.0,
    "freeze": 30.0,  # until the front misses its answers, or its start
    "stop": 1.0,
    "server": 1.0,
    "server killed": 1.0,
    "burst": 1.0,
}
ACCEPT_S = 0.5
"""A connection that came so shortly before an orderly end may not have been read yet."""
CAUSES: dict[str, tuple[str, ...]] = {
    "worker_died": ("kill", "term", "freeze"),
    "model_stopped": ("stop",),
    "model_load_failed": ("kill", "term", "freeze"),
    "cancelled": ("term",),  # SIGTERM from outside: the worker ends in order
    "shutting_down": ("server", "server killed"),
    "queue_full": ("burst",),
    "cut": ("server", "server killed"),
    "refused": ("server", "server killed"),
}
"""Code -> what explains it. `restart MODEL` and `reload` are missing on purpose: they explain no error."""
MANY_DEATHS = 3
DEATHS_WINDOW_S = 75.0
"""`model_failed` and its backoff need several deaths in a minute."""


@dataclass(slots=True)
class Disturbance:
    kind: str
    model: str
    began: float
    ended: float | None = None

    def is_at_work(self, model: str, since: float, until: float) -> bool:
        ended = until if self.ended is None else self.ended + EFFECT_S.get(self.kind, 1.0)
        return self.model in (model, ANY) and self.began <= until and ended >= since


class Disturbances:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: list[Disturbance] = []

    @contextmanager
    def going_on(self, kind: str, model: str = ANY) -> Iterator[None]:
        """While the block runs, and some seconds longer."""
        one = Disturbance(kind, model, time.monotonic())
        with self._lock:
            self._known.append(one)
        try:
            yield
        finally:
            one.ended = time.monotonic()

    def explains(self, code: str, model: str, since: float, until: float) -> bool:
        """Whether an error `code` of a request to `model`, from `since` to `until`, had to be expected."""
        with self._lock:
            known = list(self._known)
        if code == "model_failed":
            deaths = [
                d
                for d in known
                if d.kind in ("kill", "term", "freeze")
                and d.is_at_work(model, since - DEATHS_WINDOW_S, until)
            ]
            return len(deaths) >= MANY_DEATHS
        kinds = CAUSES.get(code, ())
        causes = [d for d in known if d.kind in kinds and d.is_at_work(model, since, until)]
        if code == "cut":  # an orderly end gives every request that it knows its last word
            causes = [d for d in causes if d.kind != "server" or since >= d.began - ACCEPT_S]
        return bool(causes)

    def touched(self, model: str, since: float, until: float, *kinds: str) -> bool:
        with self._lock:
            return any(d.kind in kinds and d.is_at_work(model, since, until) for d in self._known)
