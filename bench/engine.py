"""The engine without a server: `MlxEngine.step` in a loop against mlx_lm's `BatchGenerator`, in one run.

    python -m bench.engine [MODEL_FOLDER] [--streams 1,8,32] [--rounds 5] [--against CHECKOUT] [--profile]

The same arrivals for all: so many requests run at any time, a new one as soon as one ends. No sockets and no
front, so a profile shows the worker's own work. Each subject is a process that stays; they take turns within
a round, and the figures that count are the medians of the rounds' ratios. `--against` adds the engine of
another checkout (an older commit). `--repeat` asks the same eight prompts over and over (prefix cache),
`--prompt-words` makes them longer; `--profile` prints a cProfile of ours and times nothing.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import os
import pstats
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Case:
    """One load. `requests` are in all, of which `streams` run at a time."""

    streams: int
    requests: int
    max_tokens: int
    prompt_words: int = 0
    repeat: bool = False
    temperature: float = 0.0

    def prompt(self, number: int) -> str:
        which = number % 8 if self.repeat else number
        return f"{'word ' * self.prompt_words}Count from {which} to 900, one number per line"


@dataclass
class Timeline:
    """When a request's tokens came. Seconds of `time.perf_counter`."""

    began: float
    arrivals: list[float] = field(default_factory=list)


Advance = Callable[[], tuple[dict[str, int], list[str]]]
"""One step: the new tokens of each request, and who ended."""


class OurEngine:
    """The worker's engine as the worker drives it, on this thread."""

    def __init__(self, folder: str) -> None:
        from mlxk.workers import protocol
        from mlxk.workers.mlx_engine import MlxEngine

        self._protocol = protocol
        self._engine = MlxEngine()
        self._engine.load(protocol.Load("bench", folder, 256 * 1024 * 1024), lambda *_: None)

    def begin(self, number: int, case: Case) -> str:
        name = f"r{number}"
        sampling = self._protocol.Sampling(temperature=case.temperature)
        messages = [{"role": "user", "content": case.prompt(number)}]
        self._engine.submit(
            self._protocol.Generate(
                name, messages=messages, max_tokens=case.max_tokens, sampling=sampling, ignore_eos=True
            )
        )
        return name

    def step(self) -> tuple[dict[str, int], list[str]]:
        tokens: dict[str, int] = {}
        ended = []
        for message in self._engine.step():
            match message:
                case self._protocol.Deltas():
                    tokens.update((delta.id, delta.tokens) for delta in message.items)
                case self._protocol.Finished():
                    ended.append(message.id)
                case self._protocol.Failed():
                    raise RuntimeError(message.fault.message)
        return tokens, ended

    def reset(self) -> None:
        """Forget the prefixes, so that each measurement begins alike."""
        self._engine.trim_cache(0)
        self._engine.trim_cache(256 * 1024 * 1024)


class Limit:
    """mlx_lm's batch alone: no text, no prefix cache."""

    def __init__(self, folder: str) -> None:
        from mlx_lm import load
        from mlx_lm.generate import BatchGenerator
        from mlx_lm.sample_utils import make_sampler

        self._model, self._tokenizer = load(folder)[:2]
        self._make_sampler = make_sampler
        self._samplers: dict[float, Any] = {}
        self._new: Callable[[], Any] = lambda: BatchGenerator(self._model, completion_batch_size=64)
        self._generator = self._new()

    def begin(self, number: int, case: Case) -> str:
        messages = [{"role": "user", "content": case.prompt(number)}]
        prompt = list(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True))
        sampler = self._samplers.setdefault(case.temperature, self._make_sampler(case.temperature))
        (uid,) = self._generator.insert([prompt], [case.max_tokens], samplers=[sampler])
        return str(uid)

    def step(self) -> tuple[dict[str, int], list[str]]:
        _, tokens = self._generator.next()
        return {str(t.uid): 1 for t in tokens}, [str(t.uid) for t in tokens if t.finish_reason]

    def reset(self) -> None:
        self._generator.close()
        self._generator = self._new()


def measure(subject: OurEngine | Limit, case: Case, numbers: Iterator[int]) -> dict[str, float]:
    subject.reset()
    running: dict[str, Timeline] = {}
    done: list[Timeline] = []
    cpu_s, engine_s, began = time.process_time(), time.thread_time(), time.perf_counter()
    while len(done) < case.requests:
        while len(running) < min(case.streams, case.requests - len(done)):
            at = time.perf_counter()
            running[subject.begin(next(numbers), case)] = Timeline(at)
        new, ended = subject.step()
        now = time.perf_counter()
        for name in new:
            running[name].arrivals.append(now)
        done.extend(running.pop(name) for name in ended)
    wall_s = time.perf_counter() - began
    tokens = case.requests * case.max_tokens  # all of them: text that is held back comes with the next delta
    first = sorted(1e3 * (t.arrivals[0] - t.began) for t in done)
    gaps = sorted(1e3 * (b - a) for t in done for a, b in itertools.pairwise(t.arrivals))
    return {
        "tokens_per_s": tokens / wall_s,
        "cpu_us_per_token": 1e6 * (time.process_time() - cpu_s) / tokens,
        "engine_thread_us_per_token": 1e6 * (time.thread_time() - engine_s) / tokens,
        "ttft_ms_p50": first[len(first) // 2],
        "ttft_ms_p95": first[int(0.95 * len(first))],
        "inter_token_ms_p50": gaps[len(gaps) // 2],
        "inter_token_ms_p95": gaps[int(0.95 * len(gaps))],
    }


# ------------------------------------------------------------------------ processes


def serve_cases(kind: str, folder: str) -> None:
    """The child: a case a line comes in, its figures go out."""
    subject = Limit(folder) if kind == "limit" else OurEngine(folder)
    numbers = itertools.count()
    measure(subject, Case(4, 8, 16), numbers)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(subject, Case(**json.loads(line)), numbers)), flush=True)


class Child:
    def __init__(self, kind: str, folder: str, checkout: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        command = [sys.executable, "-P", __file__, folder, "--child", kind]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=checkout
        )
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended")
        return line

    def measure(self, case: Case) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(case)) + "\n")
        self._process.stdin.flush()
        found: dict[str, float] = json.loads(self._read())
        return found

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def compare(children: dict[str, Child], cases: list[Case], rounds: int) -> None:
    for case in cases:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in children}
        for number in range(rounds):
            names = list(children) if number % 2 == 0 else list(reversed(children))
            for name in names:
                found[name].append(children[name].measure(case))
        for name, figures in found.items():
            median = {key: statistics.median(f[key] for f in figures) for key in figures[0]}
            ratio = statistics.median(
                ours["tokens_per_s"] / limit["tokens_per_s"]
                for ours, limit in zip(figures, found["limit"], strict=True)
            )
            print(
                f"{case.streams:3} streams  {name:8} {median['tokens_per_s']:6.0f} tokens/s"
                f"  {ratio:5.3f} of the limit"
                f"  TTFT {median['ttft_ms_p50']:6.1f} p95 {median['ttft_ms_p95']:6.1f} ms"
                f"  gap {median['inter_token_ms_p50']:5.2f} p95 {median['inter_token_ms_p95']:6.2f} ms"
                f"  CPU {median['cpu_us_per_token']:5.0f}, engine thread"
                f" {median['engine_thread_us_per_token']:5.0f} us/token",
                flush=True,
            )


def profile(folder: str, cases: list[Case]) -> None:
    subject = OurEngine(folder)
    numbers = itertools.count()
    measure(subject, Case(4, 8, 16), numbers)
    for case in cases:
        with cProfile.Profile() as profiler:
            measure(subject, case, numbers)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", help="a model's folder; the built-in tiny without one")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--prompt-words", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--repeat", action="store_true")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--child", choices=["engine", "limit"], help=argparse.SUPPRESS)
    a = parser.parse_args()
    folder = a.folder
    if folder is None:
        from mlxk.store.builtin import builtin_path

        folder = str(builtin_path())
    if a.child:
        return serve_cases(a.child, folder)
    cases = [
        Case(n, max(6, 3 * n), a.max_tokens, a.prompt_words, a.repeat, a.temperature)
        for n in map(int, a.streams.split(","))
    ]
    if a.profile:
        return profile(folder, cases)
    children = {"limit": Child("limit", folder, ROOT), "engine": Child("engine", folder, ROOT)}
    if a.against:
        children["before"] = Child("engine", folder, a.against.resolve())
    try:
        compare(children, cases, a.rounds)
    finally:
        for child in children.values():
            child.close()


if __name__ == "__main__":
    main()
