"""How quickly the command line answers, beside the least that a program of its kind costs.

    python -m bench.cli [--rounds 15] [--models 200] [--out bench/results]

`python -c "import click, zmq, msgspec"` is the measure: `--version` and `ps` should take at most twice as
long, `list` with 200 models 0.5 s more. All commands take turns, so that what else the machine does hits them
alike; `ps` asks a real server (fake engine) with one model loaded. Compiled modules lie in a place of their
own, as an installed package has them. Wall time; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.listing import write_models
from mlxk import __version__

MLXK = (sys.executable, "-P", "-m", "mlxk")
BASE = "python -c 'import click, zmq, msgspec'"
COMMANDS: dict[str, tuple[str, ...]] = {
    "python -c pass": (sys.executable, "-c", "pass"),
    BASE: (sys.executable, "-c", "import click, zmq, msgspec"),
    "mlxk --version": (*MLXK, "--version"),
    "mlxk ps": (*MLXK, "ps"),
    "mlxk ps --json": (*MLXK, "ps", "--json"),
    "mlxk list": (*MLXK, "list"),
    "completion: verbs": (*MLXK, "completion", "zsh", "--for", "--", "s"),
    "completion: installed names": (*MLXK, "completion", "zsh", "--for", "--", "run", "mlx"),
    "completion: loaded names": (*MLXK, "completion", "zsh", "--for", "--", "stop", "t"),
}
FACTOR = {"mlxk --version": 2.0, "mlxk ps": 2.0}
"""At most so many times the measure."""
MORE_S = {"mlxk list": 0.5}
"""At most so much more than the measure."""


@contextmanager
def surroundings(n_models: int) -> Iterator[Mapping[str, str]]:
    """An environment with models and a running server."""
    root = Path(tempfile.mkdtemp(prefix="mlxk-bench-", dir="/tmp"))
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLXK_", "HF_", "PYTHON"))
    }
    env |= {
        "MLXK_HOME": str(root / "home"),
        "HF_HOME": str(root / "hf"),
        "MLXK_ENGINE": "fake",
        "MLXK_SPARE": "0",
        "PYTHONPYCACHEPREFIX": str(root / "compiled"),
    }
    try:
        write_models(root / "hf" / "hub", n_models)
        subprocess.run([*MLXK, "serve", "--detach", "--port", "0", "tiny"], env=env, check=True)
        try:
            yield env
        finally:
            subprocess.run([*MLXK, "stop"], env=env, check=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def measure(rounds: int, env: Mapping[str, str]) -> dict[str, list[float]]:
    """Seconds of each command in each round. One round goes before and does not count."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
            if number:
                times[name].append(time.perf_counter() - began)
    return times


def table(times: Mapping[str, list[float]], n_models: int) -> str:
    base = statistics.median(times[BASE])
    head = "| command | median ms | min | max | x of the measure | more than it, ms | aim |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for name, values in times.items():
        median = statistics.median(values)
        aim = "–"
        if name in FACTOR:
            aim = f"≤ {FACTOR[name]:g} x: {'kept' if median <= FACTOR[name] * base else 'MISSED'}"
        if name in MORE_S:
            aim = (
                f"≤ {MORE_S[name] * 1000:g} ms more: {'kept' if median - base <= MORE_S[name] else 'MISSED'}"
            )
        shown = f"{name} ({n_models} models)" if name == "mlxk list" else name
        figures = (median * 1000, min(values) * 1000, max(values) * 1000)
        cells = [f"`{shown}`", *(f"{one:.0f}" for one in figures), f"{median / base:.2f}"]
        lines.append("| " + " | ".join([*cells, f"{(median - base) * 1000:.0f}", aim]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cli")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    with surroundings(arguments.models) as env:
        times = measure(arguments.rounds, env)
    where = (
        f"mlxk {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, load before {load_before:.1f} and after {os.getloadavg()[0]:.1f}; "
        f"{arguments.rounds} rounds, commands taking turns"
    )
    text = f"# How quickly the command line answers\n\n{where}. `python -m bench.cli`\n\n"
    text += table(times, arguments.models) + "\n"
    facts: dict[str, Any] = {"where": where, "models": arguments.models, "seconds": times}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "cli.md").write_text(text, encoding="utf-8")
    (arguments.out / "cli.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
