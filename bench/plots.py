"""The report's pictures: curves over the number of streams for scene (a), bars for each other scene."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figures, Row
from bench.scene import Scene

CURVES = ("tokens_per_s", "ttft_ms_p95")
COLORS = {
    "mlxk": "#1b6ac9",
    "mlx_lm.server": "#d9822b",
    "mlx-knife": "#8a8a8a",
    "limit": "#222222",
    "mlxk-before": "#8fb8e8",
    "vllm-mlx": "#5a9e4b",
    "rapid-mlx": "#a64ca6",
}
_STREAMS = re.compile(r"(.+), (\d+) streams")
DPI = 110


def draw(figures: Figures, scenes: Sequence[Scene], folder: Path) -> dict[str, list[str]]:
    """Scene's name → its pictures' file names."""
    import matplotlib

    matplotlib.use("Agg")
    found: dict[str, list[str]] = {}
    for scene in scenes:
        rows = figures.rows(scene.name)
        if not rows:
            continue
        values = CURVES if scene.headline in CURVES else (scene.headline,)
        over_streams = {value: _curves(figures, rows, value) for value in values}
        if any(over_streams.values()):
            found[scene.name] = [
                _draw_curves(panels, value, folder / f"{scene.name}-{value}.png")
                for value, panels in over_streams.items()
                if panels
            ]
        else:
            found[scene.name] = [_draw_bars(figures, rows, scene.headline, folder / f"{scene.name}.png")]
    return found


Curves = dict[str, dict[str, list[tuple[int, float, float, float]]]]
"""Panel → peer → (streams, median, minimum, maximum)."""


def _curves(figures: Figures, rows: Sequence[Row], value: str) -> Curves:
    """Only panels with three numbers of streams or more make a curve."""
    panels: Curves = {}
    for row in rows:
        match = _STREAMS.fullmatch(row.case)
        if not match or row.peer == "replay":
            continue
        if spread := figures.spread(row, value):
            points = panels.setdefault(f"{row.model}: {match[1]}", {}).setdefault(row.peer, [])
            points.append((int(match[2]), spread.median, spread.minimum, spread.maximum))
    return {panel: peers for panel, peers in panels.items() if max(map(len, peers.values())) >= 3}


def _draw_curves(panels: Curves, value: str, target: Path) -> str:
    from matplotlib import pyplot
    from matplotlib.ticker import ScalarFormatter

    figure, axes = pyplot.subplots(1, len(panels), figsize=(6 * len(panels), 4.2), squeeze=False)
    for axis, (panel, peers) in zip(axes[0], panels.items(), strict=True):
        ticks: set[int] = set()
        for peer, points in peers.items():
            streams, medians, lows, highs = zip(*sorted(points), strict=True)
            ticks |= set(streams)
            color = COLORS.get(peer)
            axis.plot(streams, medians, "o-", label=peer, color=color, markersize=4)
            axis.fill_between(streams, lows, highs, color=color, alpha=0.12, linewidth=0)
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(ticks))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        if value.startswith("ttft"):
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(ScalarFormatter())
        else:
            axis.set_ylim(bottom=0)
        axis.set(title=panel, xlabel="streams", ylabel=_words(value))
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    return _save(figure, target)


def _draw_bars(figures: Figures, rows: Sequence[Row], value: str, target: Path) -> str:
    """One group per model and case, one bar per peer; the line on a bar goes from minimum to maximum."""
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    shown = [row for row in rows if figures.spread(row, value)]
    groups = list(dict.fromkeys((row.model, row.case) for row in shown))
    peers = list(dict.fromkeys(row.peer for row in shown))
    figure, axis = pyplot.subplots(figsize=(9, 1.2 + 0.22 * max(1, len(shown)) + 0.15 * len(groups)))
    height = 0.8 / max(1, len(peers))
    for row in shown:
        spread = figures.spread(row, value)
        assert spread
        place = groups.index((row.model, row.case)) + peers.index(row.peer) * height
        reach = [[spread.median - spread.minimum], [spread.maximum - spread.median]]
        axis.barh(
            place, spread.median, height, xerr=reach, color=COLORS.get(row.peer, "#999999"), ecolor="#666666"
        )
    axis.set_yticks([number + 0.4 - height / 2 for number in range(len(groups))])
    axis.set_yticklabels([f"{model}: {case}" for model, case in groups], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(_words(value))
    axis.grid(axis="x", alpha=0.25)
    bars = [Rectangle((0, 0), 1, 1, color=COLORS.get(peer, "#999999")) for peer in peers]
    axis.legend(bars, peers, frameon=False, fontsize=8)
    return _save(figure, target)


def _save(figure: Any, target: Path) -> str:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(target, dpi=DPI)
    pyplot.close(figure)
    return target.name


def _words(value: str) -> str:
    name, unit = value, ""
    if value.endswith("_per_s"):
        name, unit = value[: -len("_per_s")], "/s"
    elif "_ms" in value:
        name, unit = value.replace("_ms", ""), ", ms"
    return name.replace("_", " ").replace("ttft", "time to first token").strip() + unit
