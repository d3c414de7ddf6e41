"""mlxk beside mlx_lm.server and beside the limit, on one machine, in one run.

    python -m bench.compare [--rounds 5] [--requests 48] [--out bench/results]

One server at a time; each round measures all of them, one after the other, so that a slow spell of a shared
machine hits all alike. Writes a table (medians over the rounds, and the median of the per-round ratios) and
the raw figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import servers
from mlxk import __version__
from mlxk.store.builtin import BUILTIN_NAME, builtin_path

STREAMS = (1, 8, 32)
Measure = Callable[[int, int, int], dict[str, Any]]


def measure_mlxk(streams: int, requests: int, max_tokens: int) -> dict[str, Any]:
    with servers.mlxk(BUILTIN_NAME) as (url, model):
        return _load(url, model, streams, requests, max_tokens)


def measure_mlx_lm(streams: int, requests: int, max_tokens: int) -> dict[str, Any]:
    with servers.mlx_lm_server(builtin_path()) as (url, model):
        return _load(url, model, streams, requests, max_tokens)


def measure_limit(streams: int, requests: int, max_tokens: int) -> dict[str, Any]:
    return _report("bench.limit", [str(builtin_path())], streams, requests, max_tokens)


SUBJECTS: dict[str, Measure] = {
    "mlx_lm.server": measure_mlx_lm,
    "mlxk": measure_mlxk,
    "limit": measure_limit,
}


def _load(url: str, model: str, streams: int, requests: int, max_tokens: int) -> dict[str, Any]:
    _report("bench.load_client", [url, model], streams, min(requests, 8), max_tokens)  # warm up
    return _report("bench.load_client", [url, model], streams, requests, max_tokens)


def _report(module: str, where: list[str], streams: int, requests: int, max_tokens: int) -> dict[str, Any]:
    command = [sys.executable, "-m", module, *where, "--streams", str(streams)]
    command += ["--requests", str(requests), "--max-tokens", str(max_tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(results: dict[str, dict[int, list[dict[str, Any]]]]) -> str:
    lines = [
        "| streams | subject | tokens/s | min to max | ratio to mlx_lm.server | share of the limit "
        "| TTFT ms p50 | p95 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for streams in next(iter(results.values())):
        for name, by_streams in results.items():
            rounds = by_streams[streams]
            speeds = [r["tokens_per_s"] for r in rounds]
            base = [r["tokens_per_s"] for r in results["mlx_lm.server"][streams]]
            limit = [r["tokens_per_s"] for r in results["limit"][streams]]
            lines.append(
                f"| {streams} | {name} | {statistics.median(speeds):.0f} "
                f"| {min(speeds):.0f} to {max(speeds):.0f} "
                f"| {_ratio(speeds, base):.2f} | {_ratio(speeds, limit):.2f} "
                f"| {statistics.median(r['ttft_ms_p50'] for r in rounds):.0f} "
                f"| {statistics.median(r['ttft_ms_p95'] for r in rounds):.0f} |"
            )
    return "\n".join(lines)


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """Median of the ratios of each round: both of a pair met the same machine."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    a = parser.parse_args()
    results: dict[str, dict[int, list[dict[str, Any]]]] = {
        name: {n: [] for n in STREAMS} for name in SUBJECTS
    }
    for number in range(a.rounds):
        for streams in STREAMS:
            requests = max(8, a.requests // 4) if streams == 1 else a.requests * (2 if streams > 8 else 1)
            for name, measure in SUBJECTS.items():
                found = measure(streams, requests, a.max_tokens)
                results[name][streams].append(found)
                print(
                    f"round {number + 1}, {streams} streams, {name}: {found['tokens_per_s']} tokens/s",
                    flush=True,
                )
                assert not found["failed"], found
    facts = (
        f"mlxk {__version__}, {platform.platform()}, Python {platform.python_version()}, {a.rounds} rounds"
    )
    a.out.mkdir(parents=True, exist_ok=True)
    text = f"{facts}\n\n{table(results)}\n"
    (a.out / "compare.md").write_text(text, encoding="utf-8")
    (a.out / "compare.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
