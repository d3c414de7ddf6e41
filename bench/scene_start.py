"""(f) From the start to the first completion, cold loads with and without a spare, and `mlxk ps`.

A fresh process each time; its files are in the page cache (one start of each peer goes before the first
round). `mlx_lm.load` is measured in a warm process: one that has imported mlx_lm (the first load, as a warm
spare makes it), one that loads into fresh memory, as every new process does, and one that loads into the
memory of a model that it has let go. `python -c "import click, zmq, msgspec"` stands in
the limit's place beside `mlxk ps`, and a program of five lines beside the starts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from bench import cli, limit_cases
from bench.client import CHAT
from bench.models import ENDLESS, LARGER, endless_model, larger_model
from bench.peers import Mlxk
from bench.scene import Context, Peer, Sample, Served, Target

WAIT_S = 120.0
Values = dict[str, float]

_FIRST_COMPLETION = """
import sys
from mlx_lm import load
from mlx_lm.generate import BatchGenerator
model, tokenizer = load(sys.argv[1])[:2]
generator = BatchGenerator(model)
messages = [{"role": "user", "content": "hi"}]
generator.insert([list(tokenizer.apply_chat_template(messages, add_generation_prompt=True))], [1])
while not generator.next()[1]:
    pass
"""


# ------------------------------------------------------------------------------ starts


def first_completion(peer: Peer, folder: Path) -> Values:
    """From before the process to the last byte of a completion of one token."""
    if peer.name == "limit":
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", _FIRST_COMPLETION, str(folder)], check=True)
        return {"start_ms": 1e3 * (time.perf_counter() - began)}
    began = time.perf_counter()
    with peer.serve([folder], warm=False) as served:
        asked = ask_until_answered(served, folder)
        return {"start_ms": 1e3 * (time.perf_counter() - began), "connects": asked}


def ask_until_answered(served: Served, folder: Path) -> int:
    """A completion of one token, as soon as anybody listens. How often was tried."""
    body = served.body(folder, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
    deadline, tries = time.monotonic() + WAIT_S, 0
    while True:
        tries += 1
        if psutil.Process(served.pid).status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError("the server ended")
        try:
            post(f"{served.url}{CHAT}", body)
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:  # 503: still starting
                raise
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
        else:
            return tries
        time.sleep(0.02)


def post(url: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
    request = urllib.request.Request(
        url, json.dumps(body or {}).encode(), {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=WAIT_S) as reply:
        return json.load(reply)


# ------------------------------------------------------------------------------- loads


def request_that_loads(peer: Peer, first: Path, other: Path, times: int) -> Values:
    """A completion of one token from a model that is not loaded, in a server that has another one."""
    took = []
    with peer.serve([first, other], warm=False) as served:
        ask_until_answered(served, first)
        for _ in range(times):
            if isinstance(peer, Mlxk):
                post(f"{served.url}/pool/{served.names[other]}", method="DELETE")
            ask_until_answered(served, first)
            peer.wait_until_quiet(served.url)
            began = time.perf_counter()
            ask_until_answered(served, other)
            took.append(1e3 * (time.perf_counter() - began))
    return {"request_ms": statistics.median(took)}


def pool_loads(served: Served, folder: Path, times: int, *, spare: bool) -> float:
    """Milliseconds of an order to load, to its answer."""
    took = []
    for _ in range(times):
        if spare:
            Mlxk().wait_until_quiet(served.url)
        began = time.perf_counter()
        post(f"{served.url}/pool/{served.names[folder]}/load")
        took.append(1e3 * (time.perf_counter() - began))
        post(f"{served.url}/pool/{served.names[folder]}", method="DELETE")
    return statistics.median(took)


class Start:
    name = "f-start"
    headline = "start_ms"
    columns = (
        "start_ms",
        "request_ms",
        "load_ms",
        "times_first_load",
        "times_fresh_load",
        "times_repeated_load",
        "wall_ms",
        "times_import",
    )
    targets = (
        Target("start to first completion", ENDLESS, "start_ms", "mlx_lm.server", at_most=1.0),
        *[
            Target("cold load, with a spare", model, value, at_most=1.3)
            for model in ("tiny", LARGER)
            for value in ("times_first_load", "times_fresh_load", "times_repeated_load")
        ],
        Target("mlxk ps", "tiny", "times_import", at_most=2),
    )

    def run(self, context: Context) -> Iterable[Sample]:
        able = context.able(self.name)
        small, larger = endless_model(), larger_model()
        if context.round == 0:
            for peer in able:
                with context.attempt(f"{self.name}, {peer.name}, warm up"):
                    first_completion(peer, small)
        for peer in able:
            with context.attempt(f"{self.name}, {peer.name}, start"):
                values = first_completion(peer, small)
                case = "start to first completion"
                yield Sample(self.name, case, ENDLESS, peer.name, context.round, values)
        times = 2 if context.quick else 4
        for peer in able:
            slow = peer.name == "mlx-knife"  # ten seconds for each load
            if peer.name != "limit" and not (slow and context.quick):
                with context.attempt(f"{self.name}, {peer.name}, a request that loads"):
                    values = request_that_loads(peer, small, context.models["5m"], 1 if slow else times)
                    yield Sample(self.name, "a request that loads", "5m", peer.name, context.round, values)
        if any(peer.name == "mlxk" for peer in able):
            models = {"tiny": context.models["tiny"], "5m": context.models["5m"], LARGER: larger}
            if context.quick:
                del models["5m"]
            with context.attempt(f"{self.name}, loads"):
                yield from self._loads(context, models, times)
            with context.attempt(f"{self.name}, mlxk ps"):
                yield from self._ps(context, 3 if context.quick else 15)

    def _loads(self, context: Context, models: dict[str, Path], times: int) -> Iterator[Sample]:
        """mlxk's and mlx_lm's right after each other: both meet the same machine."""

        def sample(case: str, model: str, peer: str, values: Values) -> Sample:
            return Sample(self.name, case, model, peer, context.round, values)

        with Mlxk().serve(list(models.values()), warm=False) as served:
            wait_all_loaded(served, models)
            for name, folder in models.items():
                post(f"{served.url}/pool/{served.names[folder]}", method="DELETE")
                ours = pool_loads(served, folder, times, spare=True)
                theirs = limit_cases.in_own_process(limit_cases.loads, str(folder), 2 * times)
                yield sample("cold load, with a spare", name, "limit", theirs)
                values = {
                    "load_ms": ours,
                    "times_first_load": ours / theirs["first_load_ms"],
                    "times_fresh_load": ours / theirs["fresh_load_ms"],
                    "times_repeated_load": ours / theirs["load_ms"],
                }
                yield sample("cold load, with a spare", name, "mlxk", values)
        with Mlxk().serve(list(models.values()), warm=False, arguments=("--set", "spare=off")) as served:
            wait_all_loaded(served, models)
            for name, folder in models.items():
                post(f"{served.url}/pool/{served.names[folder]}", method="DELETE")
                values = {"load_ms": pool_loads(served, folder, 1 if context.quick else 2, spare=False)}
                yield sample("cold load, without a spare", name, "mlxk", values)

    def _ps(self, context: Context, times: int) -> Iterator[Sample]:
        """Taking turns with the measure."""
        commands = {"limit": cli.COMMANDS[cli.BASE], "mlxk": cli.COMMANDS["mlxk ps"]}
        took: dict[str, list[float]] = {name: [] for name in commands}
        with cli.surroundings(1) as env:
            for number in range(times + 1):
                for name, command in commands.items():
                    began = time.perf_counter()
                    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
                    if number:
                        took[name].append(1e3 * (time.perf_counter() - began))
        ratio = statistics.median(a / b for a, b in zip(took["mlxk"], took["limit"], strict=True))
        for name, figures in took.items():
            values = {"wall_ms": statistics.median(figures)}
            values |= {"times_import": ratio} if name == "mlxk" else {}
            yield Sample(self.name, "mlxk ps", "tiny", name, context.round, values)


def wait_all_loaded(served: Served, models: dict[str, Path]) -> None:
    for folder in models.values():
        ask_until_answered(served, folder)


SCENE = Start()
