"""(a) Throughput: tokens/s of all streams, time to first token, time between tokens.

Closed loop: so many requests run at any time, the next begins as soon as one ends. All peers get the same
bodies in the same order. Their servers stand side by side and idle while another is measured, so that the
samples of one case are taken within seconds of each other. On a shared machine that is not close enough for
ratios of some percent. So what has an aim is measured once more "in turns" (`bench/turns.py`): each under
endless load, for a second at a time, while the others are frozen. Prompts differ from their first words on:
what the template has before them is all that a prefix cache can find (`cached_share` says how much that was).

`tiny` ends its replies itself (25 to 60 tokens); the random models always reach `max_tokens`. Replies of one
case differ in length, so that requests do not end in step. mlx-knife, which does not batch, gets three
requests of two cases. 2,000 tokens take `tiny` three seconds, the larger ones 16 or more: `tiny` is asked.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.client import Flow, call, flow
from bench.figures import percentile
from bench.peers import Served
from bench.replay import replay
from bench.scene import Context, Sample, Target
from bench.turns import take_turns
from bench.words import Messages, fresh_text, user

Body = dict[str, Any]
SAMPLED: Body = {"temperature": 0.8, "top_p": 0.95}
MIXED: list[Body] = [
    {"temperature": 0},
    SAMPLED,
    {"temperature": 1.0, "top_k": 40},
    {"temperature": 0.7, "min_p": 0.05},
]
SLOW_PEER_REQUESTS = 3
REPLAY_STREAMS = (1, 8, 64)


@dataclass(frozen=True)
class Case:
    model: str
    kind: str
    streams: int
    requests: int
    max_tokens: int
    sampling: tuple[Body, ...] = ({"temperature": 0},)
    prompt_tokens: int = 0
    """0: the built-in model's own question ("Count from 3 to 14"); else words that nobody has seen."""

    @property
    def label(self) -> str:
        return f"{self.kind}, {self.streams} streams"

    def bodies(self) -> list[Body]:
        """`max_tokens` varies by a quarter."""
        return [
            {
                "messages": self._messages(),
                "max_tokens": self.max_tokens - number % (self.max_tokens // 4 + 1),
                **self.sampling[number % len(self.sampling)],
            }
            for number in range(self.requests)
        ]

    def _messages(self) -> Messages:
        if self.prompt_tokens:
            return user(fresh_text(self.prompt_tokens))
        return _count(*_counts[next(_turn)])


def _count(first: int, span: int) -> Messages:
    return user(f"Count from {first} to {first + span}")


def _questions(firsts: range) -> list[tuple[int, int]]:
    found = [(first, span) for first in firsts for span in range(5, 15)]
    random.Random(6).shuffle(found)
    return found


_counts, _counts_in_turns = _questions(range(1, 61)), _questions(range(61, 261))
_in_turns = itertools.cycle(_counts_in_turns)


def _turns() -> Iterator[int]:
    """Each question once, until all have been asked; by then it has left the caches of most."""
    while True:
        yield from range(len(_counts))


_turn = _turns()


def _short(model: str, *cases: tuple[int, int], tokens: int = 16, **more: Any) -> list[Case]:
    kind = "short, greedy" if model == "tiny" else more.pop("kind", "short, greedy")
    prompt = 0 if model == "tiny" else 16
    return [Case(model, kind, s, n, tokens, prompt_tokens=prompt, **more) for s, n in cases]


FULL: dict[str, list[Case]] = {
    "tiny": [
        *_short("tiny", (1, 8), (2, 12), (4, 20), (8, 40), (16, 64), (32, 96), (64, 128), tokens=80),
        Case("tiny", "2,000-token prompt, greedy", 1, 2, 16, prompt_tokens=2000),
        Case("tiny", "2,000-token prompt, greedy", 4, 4, 16, prompt_tokens=2000),
    ],
    "5m": [
        *_short("5m", (1, 4), (2, 6), (4, 8), (8, 16), (16, 24), (32, 32), (64, 64)),
        *_short("5m", (8, 16), (32, 32), kind="short, sampled, equal", sampling=(SAMPLED,)),
        *_short("5m", (8, 16), (32, 32), kind="short, sampled, mixed", sampling=tuple(MIXED)),
    ],
    "5m-4bit": _short("5m-4bit", (1, 2), (8, 8), tokens=6),
}
QUICK: dict[str, list[Case]] = {
    "tiny": _short("tiny", (1, 6), (8, 24), (32, 48), tokens=80),
    "5m": _short("5m", (8, 16)),
}
IN_TURNS = ("limit", "mlx_lm.server", "mlxk", "mlxk-before")
TURN_STREAMS = {"tiny": (1, 8, 32), "5m": (1, 8, 32)}
QUICK_TURN_STREAMS = {"tiny": (1, 8, 32), "5m": (8,)}
TURNS, QUICK_TURNS = 10, 8
"""In each round."""
TURN_BODIES = 500
"""More than a case's turns can use: none is asked twice, and no two cases share one."""
KNIFE_CASES = (("tiny", 1), ("tiny", 8))
"""Model and streams of the short cases that mlx-knife is asked for."""


def values_of(found: Flow) -> dict[str, float]:
    """What a case's streams felt like, in numbers."""
    good = [stream for stream in found.streams if stream.finished]
    if len(good) < len(found.streams):
        bad = next(stream for stream in found.streams if not stream.finished)
        raise RuntimeError(f"{len(found.streams) - len(good)} requests failed: {bad.error}")
    ttft = [1e3 * stream.ttft_s for stream in good if stream.arrivals]
    gaps = [1e3 * (b - a) for s in good for a, b in zip(s.arrivals, s.arrivals[1:], strict=False)]
    prompt = sum(stream.usage.get("prompt_tokens", 0) for stream in good)
    return {
        "tokens_per_s": sum(stream.tokens for stream in good) / found.wall_s,
        "ttft_ms_p50": percentile(ttft, 0.5),
        "ttft_ms_p95": percentile(ttft, 0.95),
        "inter_token_ms_p50": percentile(gaps, 0.5),
        "inter_token_ms_p95": percentile(gaps, 0.95),
        "tokens": float(sum(stream.tokens for stream in good)),
        "requests": float(len(good)),
        "wall_s": found.wall_s,
        "cached_share": sum(stream.cached_tokens for stream in good) / prompt if prompt else 0.0,
    }


class Throughput:
    name = "a-throughput"
    headline = "tokens_per_s"
    columns = (
        "tokens_per_s",
        "ttft_ms_p50",
        "ttft_ms_p95",
        "inter_token_ms_p50",
        "inter_token_ms_p95",
        "cached_share",
        "client_cpu_share",
    )
    ratios = ("tokens_per_s", "ttft_ms_p95")
    targets: tuple[Target, ...] = (
        *[
            Target(f"in turns, {streams} streams", "tiny", "tokens_per_s", peer, at_least=bound)
            for streams, ours in ((1, 1.05), (8, 1.25), (32, 1.4))
            for peer, bound in (("limit", 0.95), ("mlx_lm.server", ours))
        ],
        *[
            Target(f"in turns, {streams} streams", "5m", "tokens_per_s", "limit", at_least=0.97)
            for streams in (1, 8, 32)
        ],
        Target("short, greedy, 1 streams", "tiny", "ttft_ms_p50", "limit", at_most=3.0, difference=True),
        Target("short, greedy, 32 streams", "tiny", "ttft_ms_p95", "mlx_lm.server", at_most=0.25),
    )

    def run(self, context: Context) -> Iterable[Sample]:
        yield from self._client_alone(context)
        matrix = QUICK if context.quick else FULL
        with contextlib.ExitStack() as stack:
            served: dict[str, Served] = {}
            for peer in context.able(self.name):
                wanted = [name for name in matrix if peer.name != "mlx-knife" or name == "tiny"]
                with context.attempt(f"{self.name}, {peer.name}"):
                    folders = [context.models[name] for name in wanted]
                    served[peer.name] = stack.enter_context(peer.serve(folders))
            for model, cases in matrix.items():
                yield from self._model(context, served, model, cases)
            for model in matrix:
                yield from self._in_turns(context, served, model)

    def _client_alone(self, context: Context) -> Iterable[Sample]:
        """What the load client can take: no peer may come near it."""
        with replay() as url:
            for streams in REPLAY_STREAMS:
                bodies: list[Body] = [{"messages": user("replay")}] * max(100, 4 * streams)
                found = call(flow, url, bodies=bodies, streams=streams)
                values = {**values_of(found), "client_cpu_share": found.cpu_share}
                yield Sample(
                    self.name, f"client alone, {streams} streams", "-", "replay", context.round, values
                )

    def _model(
        self, context: Context, served: dict[str, Served], model: str, cases: Sequence[Case]
    ) -> Iterable[Sample]:
        folder = context.models[model]
        peers = [peer for peer in context.able(self.name) if peer.name in served]
        warm = Case(model, "warm", 4, 4, 4, tuple(MIXED), 0 if model == "tiny" else 16)
        for peer in peers:
            if any(_suits(peer.name, case) for case in cases):
                with context.attempt(f"{self.name}, {peer.name}, {model}, warm"):
                    served[peer.name].flow(folder, warm.bodies(), 4)
        for case in cases:
            bodies = case.bodies()
            for peer in peers:
                if not _suits(peer.name, case):
                    continue
                asked = bodies[:SLOW_PEER_REQUESTS] if peer.name == "mlx-knife" else bodies
                with context.attempt(f"{self.name}, {peer.name}, {model}, {case.label}"):
                    found = served[peer.name].flow(folder, asked, case.streams)
                    values = values_of(found)
                    if peer.serves_http:
                        values["client_cpu_share"] = found.cpu_share
                    yield Sample(self.name, case.label, model, peer.name, context.round, values)

    def _in_turns(self, context: Context, served: dict[str, Served], model: str) -> Iterable[Sample]:
        folder = context.models[model]
        peers = {
            peer.name: (served[peer.name], folder)
            for peer in context.able(self.name)
            if peer.name in served and peer.name in IN_TURNS
        }
        if len(peers) < 2:
            return
        turns = QUICK_TURNS if context.quick else TURNS
        for streams in (QUICK_TURN_STREAMS if context.quick else TURN_STREAMS).get(model, ()):
            (case,) = _short(model, (streams, TURN_BODIES), tokens=80 if model == "tiny" else 16)
            bodies = case.bodies()
            if model == "tiny":
                bodies = [{**body, "messages": _count(*next(_in_turns))} for body in bodies]
            label = f"in turns, {streams} streams"
            with context.attempt(f"{self.name}, {model}, {label}"):
                for turn, name, values in take_turns(peers, bodies, streams, turns):
                    yield Sample(self.name, label, model, name, context.round, values, turn)


def _suits(peer: str, case: Case) -> bool:
    short = case.kind == "short, greedy"
    return peer != "mlx-knife" or (short and (case.model, case.streams) in KNIFE_CASES)


SCENE = Throughput()
