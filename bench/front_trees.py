"""What the front costs in several working trees, side by side: CPU per token and per request, over HTTP.

    python -m bench.front_trees [--rounds 3] [--streams 1,8,32] TREE TREE...

For a change and the state before it (a clone of this repository elsewhere). A server of each tree, with the
fake engine, stands all the time; they are asked in turn, in one run, so that what else the machine does hits
them alike: only the ratios count. Time is that of all threads of the front's process, in nanoseconds
(Linux); a token's is the slope between answers of few and of many tokens, a request's what remains.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from bench.client import call, flow
from bench.scene_front import cpu_s
from tests.server import Server

FEW, MANY = 4, 104
"""Tokens of an answer."""


@contextmanager
def server_of(tree: Path, step_s: float) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="front-", dir="/tmp") as folder:
        home = Path(folder)
        (home / "config.toml").write_text(f"[models.tiny]\noptions = {{step_s = {step_s}}}\n")
        env = {
            "MLXK_SPARE": "0",
            "MLXK_ENGINE": "fake",
            "MLXK_PRELOAD": "tiny",
            "MLXK_MAX_BATCH": "64",
            "PYTHONPATH": str(tree),
        }
        if not (tree / "mlxk" / "__init__.py").is_file():
            raise SystemExit(f"{tree} holds no mlxk")
        server = Server(home, env=env)
        try:
            yield server
        finally:
            server.close()


def ask(server: Server, streams: int, tokens: int) -> float:
    """CPU seconds of the front for `streams` answers at the same time."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Count"}], "max_tokens": tokens}
    before = cpu_s(server.pid)
    done = call(flow, server.url, bodies=[{**body, "stream": True}] * streams, streams=streams)
    if bad := [stream.error for stream in done.streams if not stream.finished]:
        raise RuntimeError(bad[0])
    return cpu_s(server.pid) - before


def microseconds(server: Server, streams: int) -> tuple[float, float]:
    """Per token, and per request."""
    few, many = ask(server, streams, FEW), ask(server, streams, MANY)
    per_token_s = (many - few) / (streams * (MANY - FEW))
    return 1e6 * per_token_s, 1e6 * (few / streams - FEW * per_token_s)


def compare(trees: Sequence[Path], sizes: Sequence[int], rounds: int, step_s: float) -> None:
    taken: dict[tuple[int, Path], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        servers = {tree: stack.enter_context(server_of(tree, step_s)) for tree in trees}
        for server in servers.values():
            ask(server, max(sizes), FEW)  # what is made once is made now
        for number in range(rounds):
            for size in sizes:
                for tree in trees if number % 2 == 0 else reversed(trees):
                    taken.setdefault((size, tree), []).append(microseconds(servers[tree], size))
        for tree, server in servers.items():
            memory = psutil.Process(server.pid).memory_full_info()
            print(f"{tree}: {memory.rss / 1e6:.0f} MB resident, {memory.uss / 1e6:.0f} MB its own")
    print(f"medians of {rounds} rounds; the ratio is to {trees[0]}")
    for size in sizes:
        for tree in trees:
            token, request = (statistics.median(one[n] for one in taken[size, tree]) for n in (0, 1))
            ratio = statistics.median(
                mine[0] / first[0]
                for mine, first in zip(taken[size, tree], taken[size, trees[0]], strict=True)
            )
            told = f"{token:6.1f} µs a token ({ratio:.2f})  {request:6.0f} µs a request"
            print(f"{size:3} streams  {told}  {tree}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trees", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--step", type=float, default=0.02, help="seconds of a step of the fake engine")
    a = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    trees = [tree.resolve() for tree in a.trees]
    compare(trees, [int(size) for size in a.streams.split(",")], a.rounds, a.step)


if __name__ == "__main__":
    main()
