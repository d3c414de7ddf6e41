"""(e) What the front costs: its CPU time per token and per request, its memory, and how both grow.

CPU time is that of the front's process alone, over HTTP streams of a known number of tokens. Two flows with
the same requests, of one token and of many, tell a request's cost from a token's. With the fake engine a
token costs its worker nothing, so that many streams and models fit a small machine; `tiny` shows the same
with MLX beside it. The rivals are one process each: their fronts cannot be told apart.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil

from bench.client import Client, Flow, Stream, call
from bench.copies import copies_of
from bench.scene import Context, Peer, Sample, Served, Target
from bench.words import fresh_text, user

FAKE = ("--set", "engine=fake", "--set", "queue_per_model=512")
STEP_S = 0.01
"""Of the fake engine: 100 tokens/s a stream."""
LOOK_S = 0.1
ONE_PROCESS = "one process: its front's part cannot be told apart"
Values = dict[str, float]
Body = dict[str, Any]


# ------------------------------------------------------------------ in the client's process


async def one_by_one(client: Client, bodies: list[Body], refused: bool) -> list[Stream]:
    """`refused`: an error is the right answer."""
    found = [await client.ask(body) for body in bodies]
    for stream in found:
        if refused != stream.error.startswith("HTTP 400"):
            raise RuntimeError(f"not what was expected: {stream.error or 'an answer'}")
    return found


# ------------------------------------------------------------------------------ figures


def cpu_s(pid: int) -> float:
    """CPU time of a process and its threads; on Linux in nanoseconds, elsewhere as psutil has it."""
    if tasks := list(Path(f"/proc/{pid}/task").glob("*/schedstat")):
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@dataclass
class Watch:
    """The front's CPU time and largest memory over a block."""

    pid: int
    cpu_s: float = 0.0
    uss_bytes: int = 0
    rss_bytes: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def _look(self) -> None:
        process = psutil.Process(self.pid)
        while True:
            memory = process.memory_full_info()
            self.uss_bytes = max(self.uss_bytes, memory.uss)
            self.rss_bytes = max(self.rss_bytes, memory.rss)
            if self._done.wait(LOOK_S):
                return

    def __enter__(self) -> Watch:
        self._before = cpu_s(self.pid)
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s = cpu_s(self.pid) - self._before
        self._done.set()
        self._thread.join()

    def memory(self) -> Values:
        return {"front_uss_mb": self.uss_bytes / 1e6, "front_rss_mb": self.rss_bytes / 1e6}


def at_rest(pid: int) -> Values:
    memory = psutil.Process(pid).memory_full_info()
    return {"front_uss_mb": memory.uss / 1e6, "front_rss_mb": memory.rss / 1e6}


def streaming(served: Served, folders: Sequence[Path], streams: int, tokens: int) -> Values:
    """`streams` at a time, over the models in turn."""

    def asked(max_tokens: int) -> tuple[Flow, Watch]:
        extra = {"messages": user("Count"), "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
        bodies = [served.body(folders[n % len(folders)], extra) for n in range(max(8, streams))]
        with Watch(served.pid) as watch:
            flow = call(_flow, served.url, bodies=bodies, streams=streams)
        if bad := [stream.error for stream in flow.streams if not stream.finished]:
            raise RuntimeError(bad[0])
        return flow, watch

    asked(1)
    few, little = asked(1)
    many, much = asked(tokens)
    n_few, n_many = (sum(stream.tokens for stream in flow.streams) for flow in (few, many))
    per_token_s = (much.cpu_s - little.cpu_s) / (n_many - n_few)
    return {
        "cpu_us_per_token": 1e6 * per_token_s,
        "cpu_us_per_request": 1e6 * (little.cpu_s - n_few * per_token_s) / len(few.streams),
        **much.memory(),
        "tokens_per_s": n_many / many.wall_s,
        "front_cpu_share": much.cpu_s / many.wall_s,
        "client_cpu_share": many.cpu_share,
    }


async def _flow(client: Client, bodies: list[Body], streams: int) -> list[Stream]:
    return await client.flow(bodies, streams)


def prompts(served: Served, folder: Path, text: str, count: int, refused: bool) -> Values:
    """The same prompt again and again: what it costs the worker is in the cache."""
    body = served.body(folder, {"messages": user(text), "max_tokens": 1, "temperature": 0})
    call(one_by_one, served.url, bodies=[body], refused=refused)
    with Watch(served.pid) as watch:
        flow = call(one_by_one, served.url, bodies=[body] * count, refused=refused)
    lasted = sorted(stream.ended - stream.began for stream in flow.streams)
    return {
        "cpu_us_per_request": 1e6 * watch.cpu_s / count,
        **watch.memory(),
        "request_ms": 1e3 * lasted[count // 2],
        "client_cpu_share": flow.cpu_share,
    }


class Front:
    name = "e-front"
    headline = "cpu_us_per_token"
    columns = (
        *("cpu_us_per_token", "cpu_us_per_request", "front_uss_mb", "front_rss_mb"),
        *("front_cpu_share", "tokens_per_s", "request_ms"),
    )
    targets = (
        *[Target(f"1 models, {n} streams", "fake", "cpu_us_per_token", at_most=30) for n in (1, 8, 32, 64)],
        Target("8 streams", "tiny", "cpu_us_per_token", at_most=30),
        Target("1 models, 64 streams", "fake", "front_rss_mb", at_most=80),
        Target("8 streams", "tiny", "front_rss_mb", at_most=80),
    )
    cannot: ClassVar[dict[str, str]] = {
        "mlx_lm.server": ONE_PROCESS,
        "mlx-knife": ONE_PROCESS,
        "vllm-mlx": ONE_PROCESS,
        "rapid-mlx": ONE_PROCESS,
        "limit": "it has no front",
    }

    def run(self, context: Context) -> Iterable[Sample]:
        for peer in context.able(self.name):
            if peer.name not in self.cannot:
                with context.attempt(f"{self.name}, {peer.name}, fake engine"):
                    yield from self._fake(context, peer)
                with context.attempt(f"{self.name}, {peer.name}, tiny"):
                    yield from self._real(context, peer)

    def _sample(self, context: Context, peer: Peer, model: str, case: str, values: Values) -> Sample:
        return Sample(self.name, case, model, peer.name, context.round, values)

    def _fake(self, context: Context, peer: Peer) -> Iterator[Sample]:
        tokens = 100 if context.quick else 400
        with _fake_models(context.models["tiny"], 4) as folders:
            for count in (1, 2, 4):
                if context.quick and count == 2:
                    continue
                with peer.serve(folders[:count], arguments=FAKE) as served:
                    yield self._sample(context, peer, "fake", f"{count} models, idle", at_rest(served.pid))
                    for streams in (1, 8, 32, 64) if count == 1 else (8,):
                        values = streaming(served, folders[:count], streams, tokens)
                        case = f"{count} models, {streams} streams"
                        yield self._sample(context, peer, "fake", case, values)

    def _real(self, context: Context, peer: Peer) -> Iterator[Sample]:
        folder = context.models["tiny"]
        with peer.serve([folder]) as served:
            yield self._sample(context, peer, "tiny", "idle", at_rest(served.pid))
            for streams in (8,) if context.quick else (1, 8, 32):
                values = streaming(served, [folder], streams, 60)
                yield self._sample(context, peer, "tiny", f"{streams} streams", values)
            for tokens in (10, 1000) if context.quick else (10, 1000, 8000):
                values = prompts(served, folder, fresh_text(tokens), 20, refused=False)
                yield self._sample(context, peer, "tiny", f"a prompt of {tokens} tokens", values)
            for megabytes in (1, 10):
                text = (fresh_text(1000) * 250 * megabytes)[: megabytes * 1_000_000]
                values = prompts(served, folder, text, 5, refused=True)
                case = f"a prompt of {megabytes} MB, refused: over the context"
                yield self._sample(context, peer, "tiny", case, values)


@contextlib.contextmanager
def _fake_models(folder: Path, count: int) -> Iterator[list[Path]]:
    with copies_of(folder, count) as folders:
        for one in folders:
            (one / "fake.json").write_text(json.dumps({"step_s": STEP_S}), encoding="utf-8")
        yield folders


SCENE = Front()
