"""What was done, how it ended, how long it took; and everything that must not have happened."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Row:
    """One kind of operation."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


class Ledger:
    """Written by all threads of the soak."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], Row] = defaultdict(Row)
        self.failures: list[str] = []
        self.notes: list[str] = []
        self._began = time.monotonic()

    def record(self, arena: str, operation: str, outcome: str, seconds: float) -> None:
        with self._lock:
            row = self._rows[arena, operation]
            row.outcomes[outcome] += 1
            row.seconds.append(seconds)

    def fail(self, arena: str, text: str) -> None:
        """Something is broken: the soak will exit 1."""
        with self._lock:
            line = f"[{arena} +{time.monotonic() - self._began:.1f} s] {text}"
            self.failures.append(line)
        print(f"FAILED {line}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        with self._lock:
            self.notes.append(text)

    def total(self) -> int:
        with self._lock:
            return sum(sum(row.outcomes.values()) for row in self._rows.values())

    def table(self) -> str:
        lines = [
            "| engine | operation | times | outcomes | median s | max s |",
            "|---|---|---|---|---|---|",
        ]
        with self._lock:
            for (arena, operation), row in sorted(self._rows.items()):
                outcomes = ", ".join(f"{name} {count}" for name, count in row.outcomes.most_common())
                lines.append(
                    f"| {arena} | {operation} | {sum(row.outcomes.values())} | {outcomes} "
                    f"| {statistics.median(row.seconds):.2f} | {max(row.seconds):.2f} |"
                )
        return "\n".join(lines)
