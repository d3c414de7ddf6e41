"""The arithmetic of the report: many samples in, medians and ratios out."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.scene import Sample, Target


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; 0.0 for no values."""
    if not values:
        return 0.0
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Row(NamedTuple):
    """What the samples of all rounds have in common."""

    scene: str
    model: str
    case: str
    peer: str


@dataclass(frozen=True)
class Spread:
    median: float
    minimum: float
    maximum: float
    rounds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = list(values)
        return cls(statistics.median(found), min(found), max(found), len(found))


@dataclass(frozen=True)
class Judgement:
    target: Target
    measured: float | None
    """None: it was not measured in this run."""

    @property
    def reached(self) -> bool:
        low, high = self.target.at_least, self.target.at_most
        return (
            self.measured is not None
            and (low is None or self.measured >= low)
            and (high is None or self.measured <= high)
        )


class Figures:
    """All samples of a run, by row and by round. Several of one row and round count as their median."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        found: dict[Row, dict[str, dict[int, list[float]]]] = {}
        for sample in samples:
            by_value = found.setdefault(Row(sample.scene, sample.model, sample.case, sample.peer), {})
            for name, value in sample.values.items():
                by_value.setdefault(name, {}).setdefault(sample.round, []).append(value)
        self._found = {
            row: {
                name: {number: statistics.median(values) for number, values in rounds.items()}
                for name, rounds in by_value.items()
            }
            for row, by_value in found.items()
        }

    def rows(self, scene: str) -> list[Row]:
        """Grouped by model and case in the order in which they were first measured; peers by name."""
        order: dict[tuple[str, str], list[Row]] = {}
        for row in self._found:
            if row.scene == scene:
                order.setdefault((row.model, row.case), []).append(row)
        return [row for rows in order.values() for row in sorted(rows, key=lambda row: row.peer)]

    def values(self, row: Row) -> list[str]:
        return list(self._found.get(row, {}))

    def by_round(self, row: Row, value: str) -> dict[int, float]:
        return self._found.get(row, {}).get(value, {})

    def spread(self, row: Row, value: str) -> Spread | None:
        rounds = self.by_round(row, value)
        return Spread.of(rounds.values()) if rounds else None

    def ratio(self, row: Row, value: str, other: str) -> float | None:
        """The median of the rounds' ratios: both of a pair met the same machine. None: nothing to compare."""
        pairs = self._pairs(row, value, other)
        ratios = [ours / theirs for ours, theirs in pairs if theirs]
        return statistics.median(ratios) if ratios else None

    def difference(self, row: Row, value: str, other: str) -> float | None:
        """The median of the rounds' differences."""
        pairs = self._pairs(row, value, other)
        return statistics.median(ours - theirs for ours, theirs in pairs) if pairs else None

    def judge(self, scene: str, target: Target) -> Judgement:
        row = Row(scene, target.model, target.case, target.peer)
        if target.versus is None:
            spread = self.spread(row, target.value)
            return Judgement(target, spread.median if spread else None)
        compare = self.difference if target.difference else self.ratio
        return Judgement(target, compare(row, target.value, target.versus))

    def _pairs(self, row: Row, value: str, other: str) -> list[tuple[float, float]]:
        ours, theirs = self.by_round(row, value), self.by_round(row._replace(peer=other), value)
        return [(ours[number], theirs[number]) for number in ours if number in theirs]
