"""What must be true at any moment, and what must not grow: looked at from outside."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psutil

from mlxk.supervisor.memory import process_bytes
from tests.soak.arena import GONE, Arena

LOOK_S = 0.5
STUCK_S = 75.0
"""A model that is loading, draining or stopping for so long will do so for ever."""
REST_S = 45.0
"""After the last operation: all leases given back, all transitions done, frozen workers found."""
MB = 1024 * 1024
DESCRIPTORS_SPARE = 2
THREADS_SPARE = 8
"""Thread pools fill up to their bounds."""
MEMORY_SPARE_BYTES = 16 * MB
PASSING = ("loading", "draining", "stopping")


@dataclass(frozen=True, slots=True)
class Sample:
    """The front at rest: no model loaded, nobody connected."""

    life: int
    at: float
    operations: int
    descriptors: int
    threads: int
    memory_bytes: int


class Watch:
    """Its thread looks at `ps` all the time; `rest` checks and measures at quiet points."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.samples: list[Sample] = []
        self._passing: dict[tuple[int, str, str, int | None], float] = {}
        self._pinned: dict[str, tuple[int, int, float]] = {}
        self._over_since: float | None = None
        self.most_models = 0
        self.looks = 0

    def run(self) -> None:
        while not self._arena.over.wait(LOOK_S):
            with self._arena.operation():
                self._look()

    def _look(self) -> None:
        arena = self._arena
        life, server = arena.life, arena.server
        try:
            data = server.call("ps", timeout_s=30)
            workers = len(server.worker_pids())
        except GONE:
            return
        self.looks += 1
        models: list[dict[str, Any]] = data["models"]
        living = [model for model in models if model["pid"]]
        self.most_models = max(self.most_models, len(living))
        if len(living) > arena.max_models + sum(1 for m in living if m["state"] == "restarting"):
            arena.fail(f"{len(living)} models of at most {arena.max_models}: {_states(models)}")
        held = sum(model["memory_bytes"] for model in living)
        if held > data["server"]["memory_limit_bytes"]:
            arena.fail(f"models hold {held} bytes, the limit is {data['server']['memory_limit_bytes']}")
        self._check_workers(workers)
        self._check_passing(life, models)
        self._check_pinned(life, {model["name"]: model for model in models})

    def _check_workers(self, workers: int) -> None:
        """Models, the spare, and a restart's second process; a moment of more is a spare that was taken."""
        arena = self._arena
        now = time.monotonic()
        if workers <= arena.max_models + arena.has_spare + 1:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = now
        elif now - self._over_since > 10:
            self._over_since = now
            arena.fail(f"{workers} worker processes for at most {arena.max_models} models")

    def _check_passing(self, life: int, models: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        present = {(life, m["name"], m["state"], m["pid"]) for m in models if m["state"] in PASSING}
        self._passing = {key: since for key, since in self._passing.items() if key in present}
        for key in present:
            since = self._passing.setdefault(key, now)
            if now - since > STUCK_S:
                self._arena.fail(f"{key[1]} has been {key[2]} for {now - since:.0f} s (pid {key[3]})")
                self._passing[key] = now

    def _check_pinned(self, life: int, models: dict[str, dict[str, Any]]) -> None:
        """A pinned model that was ready stays, unless somebody does something to it."""
        now = time.monotonic()
        for name in self._arena.cast.pinned:
            model = models.get(name, {})
            known = self._pinned.pop(name, None)
            if known and known[0] == life and model.get("pid") != known[1]:
                kinds = ("kill", "term", "freeze", "stop", "restart", "server", "server killed")
                if not self._arena.disturbances.touched(name, known[2], now, *kinds):
                    self._arena.fail(f"the pinned model {name} went, and nobody asked for it")
            if model.get("state") == "ready":
                self._pinned[name] = (life, model["pid"], now)

    # --------------------------------------------------------------- quiet points

    def rest(self) -> None:
        """Called while no operation runs: everything must come to an end, and nothing must have grown."""
        arena = self._arena
        models = self._wait(lambda data: _at_rest(data["models"]), "requests or transitions never ended")
        if models is None:
            return
        with arena.disturbances.going_on("stop"):
            try:
                arena.server.call("stop", {"all": True}, timeout_s=60)
            except GONE as error:
                arena.fail(f"stop --all at a quiet point: {type(error).__name__}: {error}")
                return
        self._wait(self._only_spare, "after stop --all there are still workers, or no spare comes")
        self._check_zombies()
        self.samples.append(self._sample())

    def _only_spare(self, data: dict[str, Any]) -> bool:
        spare = data["server"]["spare"]
        ready = bool(spare and spare["warm"]) if self._arena.has_spare else True
        alone = len(self._arena.server.worker_pids()) == self._arena.has_spare
        return ready and alone and not any(model["pid"] for model in data["models"])

    def _wait(self, condition: Any, problem: str) -> dict[str, Any] | None:
        deadline = time.monotonic() + REST_S
        while True:
            try:
                data = self._arena.server.call("ps", timeout_s=30)
                if condition(data):
                    return data
            except GONE as error:
                self._arena.fail(f"at a quiet point: {type(error).__name__}: {error}")
                return None
            if time.monotonic() > deadline:
                self._arena.fail(f"{problem}: {_states(data['models'])}, spare {data['server']['spare']}")
                return None
            time.sleep(0.1)

    def _check_zombies(self) -> None:
        deadline = time.monotonic() + 5
        while zombies := _zombies(self._arena.server.pid):
            if time.monotonic() > deadline:
                self._arena.fail(f"zombies of the front: {zombies}")
                return
            time.sleep(0.05)

    def _sample(self) -> Sample:
        """The lowest of a second: connections that were just closed are not yet everywhere."""
        arena = self._arena
        front = psutil.Process(arena.server.pid)
        seen = []
        for _ in range(8):
            seen.append((front.num_fds(), front.num_threads(), process_bytes(front.pid)))
            time.sleep(0.15)
        return Sample(
            arena.life,
            time.monotonic(),
            arena.ledger.total(),
            min(one[0] for one in seen),
            min(one[1] for one in seen),
            min(one[2] for one in seen),
        )

    # -------------------------------------------------------------------- verdict

    def judge(self) -> list[str]:
        """A line for each front that was measured more than once; fails the arena on a leak."""
        lines = []
        for life in sorted({sample.life for sample in self.samples}):
            series = [sample for sample in self.samples if sample.life == life]
            if len(series) > 1:
                lines.append(self._judge_life(life, series))
        return lines

    def _judge_life(self, life: int, series: list[Sample]) -> str:
        first, last = series[0], series[-1]
        operations = max(1, last.operations - first.operations)
        if len(series) >= 3:  # the first one has not served anybody yet
            for name, spare in (("descriptors", DESCRIPTORS_SPARE), ("threads", THREADS_SPARE)):
                before, after = getattr(series[1], name), getattr(last, name)
                if after > before + spare:
                    self._arena.fail(f"server {life}: {name} grew from {before} to {after}")
            third = max(1, (len(series) - 1) // 3)
            early = statistics.median(s.memory_bytes for s in series[1 : 1 + third])
            late = statistics.median(s.memory_bytes for s in series[-third:])
            if late - early > MEMORY_SPARE_BYTES:
                self._arena.fail(f"server {life}: memory grew from {early / MB:.1f} to {late / MB:.1f} MB")
        slope = (last.memory_bytes - series[1].memory_bytes) / MB / operations * 1000
        shown = (first, series[1], last)
        return (
            f"| {self._arena.name} | {life} | {len(series)} | {last.at - first.at:.0f} | {operations} "
            f"| {_three(s.descriptors for s in shown)} | {_three(s.threads for s in shown)} "
            f"| {_three(round(s.memory_bytes / MB, 1) for s in shown)} | {slope:+.2f} |"
        )


HEAD = (
    "| engine | server | samples | s | operations | descriptors first/second/last | threads | memory MB "
    "| MB per 1000 operations |\n|---|---|---|---|---|---|---|---|---|"
)


def _three(values: Iterable[object]) -> str:
    return " / ".join(str(value) for value in values)


def _at_rest(models: list[dict[str, Any]]) -> bool:
    return not any(m["in_flight"] or m["queued"] or m["state"] in PASSING for m in models)


def _states(models: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{m['name']} {m['state']} (pid {m['pid']}, {m['in_flight']} running, {m['queued']} waiting)"
        for m in models
    )


def _zombies(pid: int) -> list[int]:
    found = []
    for child in psutil.Process(pid).children():
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                found.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found
