"""From samples to the report: Markdown, JSON, and the facts that both begin with."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from bench import plots
from bench.figures import Figures, Judgement, Row, Spread
from bench.peers import Peer
from bench.scene import Sample, Scene
from mlxk import __version__

VERSUS = ("limit", "mlx_lm.server")


@dataclass
class Report:
    scenes: Sequence[Scene]
    peers: Sequence[Peer]
    rounds: int
    quick: bool
    samples: list[Sample] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    took_s: float = 0.0
    stolen_share: float | None = None
    """Of all cores' time, what the host gave to others during the run. None: not known."""

    def write(self, folder: Path) -> Path:
        """bench.md, bench.json and the plots. Returns the first."""
        folder.mkdir(parents=True, exist_ok=True)
        figures = Figures(self.samples)
        drawn = plots.draw(figures, self.scenes, folder)
        target = folder / "bench.md"
        target.write_text("\n".join(self._markdown(figures, drawn)) + "\n", encoding="utf-8")
        whole = {
            "facts": self.facts(),
            "rows": [self._row_as_json(figures, scene, row) for scene, row in self._rows(figures)],
            "targets": [asdict(found.target) | _verdict(found) for found in self._judged(figures)],
            "trouble": self.trouble,
            "samples": msgspec.to_builtins(self.samples),
        }
        text = json.dumps(whole, indent=1, ensure_ascii=False)
        (folder / "bench.json").write_text(text + "\n", encoding="utf-8")
        return target

    def facts(self) -> dict[str, Any]:
        return {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "mlxk": __version__,
            "mlx": version("mlx"),
            "mlx_lm": version("mlx-lm"),
            "machine": f"{platform.platform()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "rounds": self.rounds,
            "quick": self.quick,
            "took_s": round(self.took_s),
            "stolen_share": self.stolen_share,
            "peers": {peer.name: _pins(peer) for peer in self.peers},
        }

    def _rounds_told(self) -> str:
        begun = 1 + max((sample.round for sample in self.samples), default=-1)
        whole = f"{self.rounds} rounds"
        return whole if begun == self.rounds else f"{whole}, cut off in the {begun}.,"

    def _markdown(self, figures: Figures, drawn: dict[str, list[str]]) -> Iterator[str]:
        facts = self.facts()
        yield f"# mlxk {facts['mlxk']} beside its peers, {facts['date']}\n"
        yield (
            f"`script/bench{' --quick' if self.quick else ''}`: {facts['machine']}, "
            f"Python {facts['python']}, mlx {facts['mlx']}, mlx_lm {facts['mlx_lm']}; "
            f"{self._rounds_told()} in {facts['took_s']} s. Every value is the median of the rounds "
            "(minimum to maximum); a ratio, to the limit and to `mlx_lm.server`, is the median of the ratios "
            f"of what was measured in the same round (or turn). {_stolen_told(self.stolen_share)}\n"
        )
        yield "| peer | settings |\n|---|---|"
        for peer in self.peers:
            yield f"| {peer.name} | {_pins(peer)} |"
        yield ""
        yield from self._targets(figures)
        for scene in self.scenes:
            yield from self._scene(figures, scene, drawn.get(scene.name, []))
        if self.trouble:
            yield "\n## What went wrong\n"
            yield from (f"- {line}" for line in self.trouble)

    def _targets(self, figures: Figures) -> Iterator[str]:
        judged = list(self._judged(figures))
        if not judged:
            return
        yield "## Targets\n"
        yield "| model | case | value | compared with | wanted | measured | |\n|---|---|---|---|---|---|---|"
        for found in judged:
            target = found.target
            sign = "≥" if target.at_least is not None else "≤"
            bound = target.at_least if target.at_least is not None else target.at_most
            how = (" − " if target.difference else " ÷ ") + target.versus if target.versus else ""
            measured = "–" if found.measured is None else _number(found.measured)
            verdict = "" if found.measured is None else "reached" if found.reached else "**missed**"
            yield (
                f"| {target.model} | {target.case} | {target.value} | {target.peer}{how} "
                f"| {sign} {bound:g} | {measured} | {verdict} |"
            )
        yield ""

    def _scene(self, figures: Figures, scene: Scene, pictures: list[str]) -> Iterator[str]:
        rows = figures.rows(scene.name)
        if not rows:
            return
        columns = getattr(scene, "columns", None) or _all_values(figures, rows)
        ratios = [(value, other) for value in _ratios(scene) for other in VERSUS]
        heads = [*columns, *(f"{value} ÷ {other}" for value, other in ratios)]
        yield f"\n## {scene.name}\n"
        yield from (f"![{picture}]({picture})" for picture in pictures)
        yield f"\n| model | case | peer | {' | '.join(heads)} |"
        yield f"|---|---|---|{'---|' * len(heads)}"
        for row in rows:
            cells = [_spread(figures.spread(row, value)) for value in columns]
            cells += [_ratio(figures.ratio(row, value, other)) for value, other in ratios]
            yield f"| {row.model} | {row.case} | {row.peer} | {' | '.join(cells)} |"
        for name, why in _cannot(scene, self.peers).items():
            yield f"\n{name} takes no part: {why}."

    def _rows(self, figures: Figures) -> Iterator[tuple[Scene, Row]]:
        for scene in self.scenes:
            for row in figures.rows(scene.name):
                yield scene, row

    def _row_as_json(self, figures: Figures, scene: Scene, row: Row) -> dict[str, Any]:
        spreads = {value: figures.spread(row, value) for value in figures.values(row)}
        return {
            **row._asdict(),
            "values": {value: asdict(spread) for value, spread in spreads.items() if spread},
            "ratios": {
                other: {value: figures.ratio(row, value, other) for value in spreads} for other in VERSUS
            },
        }

    def _judged(self, figures: Figures) -> Iterator[Judgement]:
        for scene in self.scenes:
            measured = {(row.model, row.case) for row in figures.rows(scene.name)}
            for target in getattr(scene, "targets", ()):
                if (target.model, target.case) in measured:  # the quick form has fewer cases
                    yield figures.judge(scene.name, target)


def _verdict(found: Judgement) -> dict[str, Any]:
    return {"measured": found.measured, "reached": found.reached}


def _pins(peer: Peer) -> str:
    return "; ".join([*filter(None, [", ".join(peer.requirements)]), peer.settings])


def _cannot(scene: Scene, peers: Sequence[Peer]) -> dict[str, str]:
    told = {peer.name: peer.cannot[scene.name] for peer in peers if scene.name in peer.cannot}
    return {**getattr(scene, "cannot", {}), **told}


def _stolen_told(share: float | None) -> str:
    return "" if share is None else f"The host took {share:.0%} of the cores' time away meanwhile."


def _ratios(scene: Scene) -> tuple[str, ...]:
    found: tuple[str, ...] = getattr(scene, "ratios", (scene.headline,))
    return found


def _all_values(figures: Figures, rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(value for row in rows for value in figures.values(row)))


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    if spread.rounds == 1:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.minimum)} to {_number(spread.maximum)})"


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"


def _number(value: float) -> str:
    """Three digits: more would pretend to be repeatable."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
