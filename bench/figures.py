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


Moment = tuple[int, int]
"""Round and turn: what was measured in the same one met the same machine."""


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
    """All samples of a run, by row and by moment. Several of one row and moment count as their median."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        found: dict[Row, dict[str, dict[Moment, list[float]]]] = {}
        for sample in samples:
            by_value = found.setdefault(Row(sample.scene, sample.model, sample.case, sample.peer), {})
            for name, value in sample.values.items():
                by_value.setdefault(name, {}).setdefault((sample.round, sample.turn), []).append(value)
        self._found = {
            row: {
                name: {moment: statistics.median(values) for moment, values in moments.items()}
                for name, moments in by_value.items()
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

    def by_moment(self, row: Row, value: str) -> dict[Moment, float]:
        return self._found.get(row, {}).get(value, {})

    def spread(self, row: Row, value: str) -> Spread | None:
        found = self.by_moment(row, value)
        return Spread.of(found.values()) if found else None

    def ratio(self, row: Row, value: str, other: str) -> float | None:
        """The median of the moments' ratios. None: there is nothing to compare."""
        pairs = self._pairs(row, value, other)
        ratios = [ours / theirs for ours, theirs in pairs if theirs]
        return statistics.median(ratios) if ratios else None

    def difference(self, row: Row, value: str, other: str) -> float | None:
        """The median of the moments' differences."""
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
        ours, theirs = self.by_moment(row, value), self.by_moment(row._replace(peer=other), value)
        return [(ours[moment], theirs[moment]) for moment in ours if moment in theirs]
