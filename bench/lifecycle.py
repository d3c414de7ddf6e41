"""How quickly things end, and what is left: stops, Ctrl-C, kill -9, disconnects, idling. (Starts and loads
are the scene (f) of `script/bench`.)

    python -m bench.lifecycle [--rounds 5] [--out bench/results]

Real servers with real MLX, one at a time, on an otherwise quiet machine. Writes a table (median, minimum and
maximum over the rounds, the aim, and how each figure was taken) and the raw figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import lifecycle_scenes as scenes
from bench.lifecycle_scenes import IDLE_S, MODELS, REQUESTS, Values
from mlxk import __version__

TINY = MODELS[0]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    key: str
    what: str
    unit: str
    how: str
    aim: float | None = None
    """In `unit`; at most this."""


SCALE = {"ms": 1e3, "s": 1.0, "MB": 1e-6, "%": 1.0}
"""Raw figures are seconds, bytes and percent."""
SOCKET = "from the order on the control socket to its answer, which comes after the reap"
THREE = "three copies of tiny in three processes, each with a running stream, and a warm spare"
FIGURES = (
    Figure("stop_idle", "stop of an idle model", "ms", f"tiny, no request; {SOCKET}"),
    Figure("stop_idle_now", "stop --now of an idle model", "ms", f"tiny, no request; {SOCKET}"),
    Figure(
        "stop_busy_drain",
        "stop of a busy model, after its stream",
        "ms",
        "tiny with a stream of 60 tokens; from the stream's [DONE] at its client to the stop's answer",
    ),
    Figure("stop_busy_now", "stop --now of a busy model", "ms", f"tiny with a running stream; {SOCKET}"),
    Figure(
        "stop_busy_now_last_event",
        "the same, to the stream's last event",
        "ms",
        "from the order to the error event at the stream's client",
    ),
    Figure(
        "ctrl_c_process_gone",
        "Ctrl-C with three busy models: server gone",
        "ms",
        f"{THREE}; from the signal to the reaped front, its workers gone before",
        1000,
    ),
    Figure(
        "ctrl_c_last_event",
        "the same, to the last stream's last event",
        "ms",
        "from the signal to the last of the three error events at their clients",
        1000,
    ),
    Figure(
        "orphans_after_kill",
        "kill -9 of the front: last worker gone",
        "ms",
        f"{THREE}; from the signal until no worker is left, looked at every 2 ms",
        500,
    ),
    Figure(
        "disconnect_to_free",
        "disconnect to free slot",
        "ms",
        "tiny with one stream; from the client's shutdown(2) of its socket to `in_flight` 0 in an answer to "
        "`ps`, asked without a pause",
        100,
    ),
    Figure(
        "stop_worker_held",
        "memory of the random model's worker before its stop",
        "MB",
        "resident size (macOS: footprint) of its process, after a request",
    ),
    Figure("stop_reported", "freed, as the stop's answer says", "MB", "`freed_bytes`"),
    Figure(
        "stop_system_gained",
        "available memory of the machine, gained by the stop",
        "MB",
        "psutil's `available` right before and right after; shared pages (libraries, page cache) do not "
        "count, and others move it",
    ),
    Figure(
        "stop_front_grew", "the front's growth over the stop", "MB", "its resident size, after minus before"
    ),
    Figure(
        "idle_cpu_front",
        "CPU of the idle front",
        "%",
        f"of one core; cpu_times over {IDLE_S:.0f} s, tiny loaded and a warm spare, no request",
        0.5,
    ),
    Figure(
        "idle_cpu_worker",
        "CPU of the busier idle worker",
        "%",
        "the same, of model and spare the larger",
        0.5,
    ),
    Figure(
        "front_memory_fresh",
        "resident memory of the front, fresh",
        "MB",
        "with tiny loaded and a warm spare, before the first request",
        80,
    ),
    Figure(
        "front_memory_used",
        f"the same, after {REQUESTS} requests",
        "MB",
        f"{REQUESTS} streams of 8 tokens, 8 at a time",
        80,
    ),
)


def measure(rounds: int, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Raw figures by key, one for each round. In each round all of it, one after the other."""
    found: dict[str, list[float]] = defaultdict(list)

    def add(values: Values) -> None:
        for key, value in values.items():
            found[key].append(value)

    with ExitStack() as stack:
        home = stack.enter_context(scenes.private_home())
        scenes.make_home(home)
        for number in range(rounds):
            began = time.monotonic()
            add(scenes.ctrl_c(home))
            add(scenes.kill_front(home))
            add(scenes.front_memory(home))
            with scenes.serving(home) as server:
                add(scenes.stop(server))
                add(scenes.memory_returned(server))
                server.call("load", {"models": [TINY]})
                add(scenes.disconnect(server))
                add(scenes.idle_cpu(server))
            say(f"round {number + 1} of {rounds}: {time.monotonic() - began:.0f} s")
    return dict(found)


def table(found: dict[str, list[float]]) -> str:
    lines = ["| what | median | min to max | aim | how it was taken |", "|---|---|---|---|---|"]
    for figure in FIGURES:
        values = [value * SCALE[figure.unit] for value in found[figure.key]]
        aim = "" if figure.aim is None else f"≤ {figure.aim:g} {figure.unit}"
        lines.append(
            f"| {figure.what} | {_shown(statistics.median(values))} {figure.unit} "
            f"| {_shown(min(values))} to {_shown(max(values))} | {aim} | {figure.how} |"
        )
    return "\n".join(lines)


def _shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    a = parser.parse_args()
    found = measure(a.rounds, lambda text: print(text, flush=True))
    facts = (
        f"mlxk {__version__}, {platform.platform()}, Python {platform.python_version()}, {a.rounds} rounds"
    )
    a.out.mkdir(parents=True, exist_ok=True)
    text = f"{facts}\n\n{table(found)}\n"
    (a.out / "lifecycle.md").write_text(text, encoding="utf-8")
    raw = {"machine": facts, "how": {f.key: f.how for f in FIGURES}, "rounds": found}
    (a.out / "lifecycle.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
