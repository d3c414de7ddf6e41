"""Several peers under endless load, thawed in turns of a second: throughputs that met the same machine.

A shared machine changes its speed by half within seconds, which whole runs one after the other cannot see
through. Here every peer with its load client is started once, loaded for good, and frozen (SIGSTOP); then
each runs alone for a second, again and again, and the tokens that arrived in that second are counted.
The ratio of two peers in one round of turns is taken from seconds that lie side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import uvloop

from bench.client import Client
from bench.counter import Counter
from bench.peers import START_TIMEOUT_S, Served

TURN_S = 1.0
WARM_S = 2.0
"""Of load before the first turn: batches have filled, and requests do not begin in step."""


class Loaded:
    """A peer and its endless load, as one thing that freezes and thaws."""

    def __init__(self, served: Served, load: subprocess.Popen[bytes] | None, counter: Counter) -> None:
        self.counter = counter
        self.roots = [served.pid] + ([load.pid] if load else [])

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for root in self.roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(root)
                for one in [process, *process.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.send_signal(number)

    def turn(self) -> float:
        """Tokens per second of a turn of its own."""
        self.thaw()
        began, before = time.perf_counter(), self.counter.arrivals
        time.sleep(TURN_S)
        arrived, passed_s = self.counter.arrivals - before, time.perf_counter() - began
        self.freeze()
        return arrived * self.counter.tokens_per_arrival / passed_s


@contextlib.contextmanager
def loaded(
    served: Served, folder: Path, bodies: Sequence[dict[str, Any]], streams: int, where: Path, name: str
) -> Iterator[Loaded]:
    """Under load for `WARM_S`, then frozen; at the end thawed, and the load is over."""
    path, counter = Counter.make(where, name)
    process: subprocess.Popen[bytes] | None = None
    if served.limit:
        served.limit.begin(folder, bodies, streams, path)
    else:
        asked = [served.body(folder, body) for body in bodies]
        order = {"url": served.url, "bodies": asked, "streams": streams, "counter": str(path)}
        (where / f"{name}.json").write_text(json.dumps(order))
        process = subprocess.Popen([sys.executable, "-P", "-m", "bench.turns", str(where / f"{name}.json")])
    one = Loaded(served, process, counter)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not counter.arrivals and (process is None or process.poll() is None):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} answers nothing")
            time.sleep(0.01)
        time.sleep(WARM_S)
        one.freeze()
        yield one
        if process and process.poll() is not None:
            raise RuntimeError(f"the load on {name} ended by itself, with {process.returncode}")
    finally:
        one.thaw()
        counter.stop()
        if process:
            process.wait(60)
        elif served.limit:
            served.limit.finish()


def take_turns(
    peers: dict[str, tuple[Served, Path]], bodies: Sequence[dict[str, Any]], streams: int, turns: int
) -> Iterator[tuple[int, str, dict[str, float]]]:
    """(turn, peer's name, values) of `turns` rounds; who comes first changes with each."""
    with contextlib.ExitStack() as stack:
        where = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp")))
        ready = {
            name: stack.enter_context(loaded(served, folder, bodies, streams, where, name.replace("/", "-")))
            for name, (served, folder) in peers.items()
        }
        names = list(ready)
        for turn in range(turns):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                rate = ready[name].turn()
                yield turn, name, {"tokens_per_s": rate, "cached_share": ready[name].counter.cached_share}


async def endless(url: str, bodies: list[dict[str, Any]], streams: int, counter: Counter) -> None:
    """Keeps `streams` requests running until the counter is told to stop; those that run then are left."""
    client, waiting = Client(url), itertools.cycle(bodies)

    async def lane() -> None:
        while not counter.stopped:
            stream = await client.ask(next(waiting), on_piece=lambda _: counter.arrived())
            if stream.error:
                raise RuntimeError(stream.error)
            counter.ended(stream)

    async def watch() -> None:
        while not counter.stopped:  # noqa: ASYNC110  # another process sets it
            await asyncio.sleep(0.05)

    over = asyncio.create_task(watch())
    tasks = [over, *(asyncio.create_task(lane()) for _ in range(streams))]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()  # a request failed: the bench notices that nothing arrives any more


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is the bench's to tell
    order = json.loads(Path(sys.argv[1]).read_text())
    counter = Counter(Path(order["counter"]))
    uvloop.run(endless(order["url"], order["bodies"], order["streams"], counter))
    os._exit(0)  # connections are left as they are: whoever is in flight is not waited for


if __name__ == "__main__":
    main()
