"""`script/bench`: every peer on the same weights, the same load, alternating, several rounds.

Writes bench.md, bench.json, samples.jsonl and plots to bench/results (with --quick to bench/results/quick).
The exit status is 1 when a measurement failed; a target that was missed is no failure.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

import bench
from bench import models
from bench.peers import BY_NAME, USUAL, CannotRun, Peer
from bench.report import Report
from bench.scene import Context, Sample, Scene, tell

ROUNDS, QUICK_ROUNDS = 3, 1
RESULTS = Path(__file__).parent / "results"


def find_scenes(wanted: Sequence[str]) -> list[Scene]:
    """Every `bench/scene_*.py` has a SCENE; `wanted` are letters or names, none of them means all."""
    names = [found.name for found in pkgutil.iter_modules(bench.__path__) if found.name.startswith("scene_")]
    scenes: list[Scene] = [importlib.import_module(f"bench.{name}").SCENE for name in names]
    scenes.sort(key=lambda scene: scene.name)
    unknown = [one for one in wanted if not any(_is_called(scene, one) for scene in scenes)]
    if unknown:
        known = ", ".join(scene.name for scene in scenes)
        raise SystemExit(f"script/bench: no scene {', '.join(unknown)}; there are {known}")
    return [scene for scene in scenes if not wanted or any(_is_called(scene, one) for one in wanted)]


def _is_called(scene: Scene, name: str) -> bool:
    return name in (scene.name, scene.name.partition("-")[0])


def prepare(peers: Sequence[Peer], trouble: list[str]) -> list[Peer]:
    """Those that could be installed; why the others could not is in `trouble`."""
    able = []
    for peer in peers:
        try:
            peer.prepare()
            able.append(peer)
        except CannotRun as error:
            tell(trouble, str(error))
    return able


def measure(report: Report, folders: dict[str, Path], lines: Path) -> None:
    """All rounds of all scenes. Each sample is kept at once, for a run that is cut off."""
    began = time.monotonic()
    with lines.open("wb") as out:
        for number in range(report.rounds):
            for scene in report.scenes:
                context = Context(
                    report.peers, folders, report.rounds, report.quick, number, trouble=report.trouble
                )
                with context.attempt(scene.name):
                    for sample in scene.run(context):
                        report.samples.append(sample)
                        out.write(msgspec.json.encode(sample) + b"\n")
                        out.flush()
                        report.took_s = time.monotonic() - began
                        _tell(report.took_s, scene, sample)


def _tell(passed_s: float, scene: Scene, sample: Sample) -> None:
    found = sample.values.get(scene.headline)
    told = "" if found is None else f": {scene.headline} {found:.4g}"
    where = f"round {sample.round + 1}, {scene.name}, {sample.model}, {sample.case}, {sample.peer}"
    print(f"[{passed_s:5.0f} s] {where}{told}", file=sys.stderr, flush=True)


def _stolen_share(before: Any, after: Any) -> float | None:
    """Of a virtual machine's cores. Only Linux tells it."""
    if not hasattr(after, "steal"):
        return None
    passed = sum(after) - sum(before)
    return float((after.steal - before.steal) / passed) if passed else None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer cases, one round: about eight minutes")
    parser.add_argument("--scenes", default="", help="letters or names, with commas: a,b (default: all)")
    parser.add_argument(
        "--peers", default=",".join(USUAL), help=f"of {', '.join(BY_NAME)} (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, with --quick {QUICK_ROUNDS}")
    parser.add_argument("--out", type=Path, help="where the results go")
    parser.add_argument(
        "--report", type=Path, metavar="SAMPLES", help="measure nothing: the report of a samples.jsonl"
    )
    a = parser.parse_args()
    unknown = [name for name in a.peers.split(",") if name not in BY_NAME]
    if unknown:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    for number in (signal.SIGTERM, signal.SIGHUP):  # the servers are ended on the way out
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    scenes = find_scenes([one for one in a.scenes.split(",") if one])
    peers: list[Peer] = [BY_NAME[name]() for name in a.peers.split(",")]
    out: Path = a.out or (RESULTS / "quick" if a.quick else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    report = Report(scenes, peers, a.rounds or (QUICK_ROUNDS if a.quick else ROUNDS), a.quick)
    if a.report is not None:
        report.samples = [
            msgspec.json.decode(line, type=Sample) for line in a.report.read_bytes().splitlines()
        ]
        print(report.write(out))
        return 0
    report.peers = prepare(peers, report.trouble)
    if not report.peers:
        print("script/bench: no peer is left: nothing is measured", file=sys.stderr)
        return 1
    folders = models.prepare()
    before = psutil.cpu_times()
    try:
        measure(report, folders, out / "samples.jsonl")
    except BaseException as error:
        report.trouble.append(f"cut off by {type(error).__name__}")
        raise
    finally:
        report.stolen_share = _stolen_share(before, psutil.cpu_times())
        if report.samples:
            print(report.write(out))
    for line in report.trouble:
        print(f"trouble: {line}", file=sys.stderr)
    return 1 if report.trouble else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("script/bench: interrupted", file=sys.stderr)
        sys.exit(130)
