"""(c) Two and four models: steady, alternating, swapped for want of room, and one answering beside another.

The models are copies of one under different names. `mlx_lm.server` takes another model per request, by its
path, and has one loaded at a time. "Swapped" gives mlxk room for one model only (`--max-models 1`), so that
it must do as much. TTFT of B is measured alone, while A streams, beside one busy process that is no server's
at all, and (Linux) with all of the server bound to half of the cores. What a change of models costs depends
on their weights, so two models of 1.6 GB, of which a token uses little, take turns, too. mlx-knife takes ten
seconds for each swap and serves one request at a time: it only takes turns, and only in the full form.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench import limit_cases
from bench.client import Client, Stream, call
from bench.copies import copies_of
from bench.models import ENDLESS, EXPERTS, endless_model, experts_model
from bench.scene import Context, Peer, Sample, Served, Target
from bench.words import Messages, fresh_text, user

SHORT_TOKENS = 4
PROMPT_TOKENS = 16
B_PROMPT_TOKENS = 100
"""Long enough that the TTFT is work, not only overhead."""
AT_ONCE = 8
SWAPPED = "2 models, room for one: swapped"
NO_BATCH = "mlx-knife"
Values = dict[str, float]
Body = dict[str, Any]


@dataclass(frozen=True)
class Amounts:
    """How much is asked in one round."""

    alternating: int
    swaps: int
    beside: int
    a_tokens: int
    """Of A's stream where a peer makes B wait for its end."""


QUICK = Amounts(alternating=8, swaps=2, beside=4, a_tokens=100)
FULL = Amounts(alternating=24, swaps=4, beside=10, a_tokens=200)
SLOW = Amounts(alternating=3, swaps=1, beside=2, a_tokens=40)
"""mlx-knife's: ten seconds for each swap."""


# ------------------------------------------------------------------ in the client's process


async def in_turn(
    client: Client, bases: list[Body], prompts: list[Messages], max_tokens: int
) -> list[Stream]:
    """One request after the other, the models taking turns."""
    return [
        await client.ask(_body(bases[number % len(bases)], prompt, max_tokens))
        for number, prompt in enumerate(prompts)
    ]


async def at_once(client: Client, bodies: list[Body], streams: int) -> list[Stream]:
    return await client.flow(bodies, streams)


async def beside(
    client: Client, a: Body, b: Body, prompts: list[Messages], a_tokens: int, waits: bool
) -> list[Stream]:
    """Requests to B while A streams. `waits`: B comes when A has ended, so each request has its own A."""
    found: list[Stream] = []
    for some in [prompts[:1], prompts[1:2]] if waits else [prompts]:
        begun = asyncio.Event()
        long = _body(a, user(fresh_text(10)), a_tokens)
        stream = asyncio.create_task(client.ask(long, on_piece=functools.partial(_note, begun)))
        await begun.wait()
        found += [await client.ask(_body(b, prompt, 1)) for prompt in some]
        if not waits and stream.done():
            raise RuntimeError("A's stream ended before B's last request")
        stream.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stream
    return found


def _note(begun: asyncio.Event, _: Stream) -> None:
    begun.set()


def _body(base: Body, messages: Messages, max_tokens: int) -> Body:
    return {**base, "messages": messages, "max_tokens": max_tokens}


# ------------------------------------------------------------------------------ figures


def per_request(streams: Sequence[Stream]) -> Values:
    for stream in streams:
        if not stream.finished:
            raise RuntimeError(stream.error)
    return {
        "request_ms": 1e3 * statistics.median(stream.ended - stream.began for stream in streams),
        "ttft_ms": 1e3 * statistics.median(stream.ttft_s for stream in streams),
        "requests_per_s": len(streams) / sum(stream.ended - stream.began for stream in streams),
    }


def _base(served: Served, folder: Path) -> Body:
    return served.body(folder, {"temperature": 0})


def _prompts(count: int, tokens: int = PROMPT_TOKENS) -> list[Messages]:
    return [user(fresh_text(tokens)) for _ in range(count)]


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """One core's worth of somebody else."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def half_the_machine(pid: int) -> Iterator[None]:
    """Every thread of the server and its workers on half of the cores."""
    cores = sorted(os.sched_getaffinity(0))
    threads = [thread.id for one in _family(pid) for thread in one.threads()]
    for thread in threads:
        os.sched_setaffinity(thread, cores[: max(1, len(cores) // 2)])
    try:
        yield
    finally:
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)


def _family(pid: int) -> list[psutil.Process]:
    front = psutil.Process(pid)
    return [front, *front.children(recursive=True)]


class Pool:
    name = "c-pool"
    headline = "requests_per_s"
    columns = ("requests_per_s", "request_ms", "ttft_ms", "times_half", "times_busy")
    targets = (
        *[
            Target(case, model, "requests_per_s", "mlx_lm.server", at_least=20)
            for model in (ENDLESS, EXPERTS)
            for case in ("2 models, alternating", f"2 models, alternating, {AT_ONCE} clients")
        ],
        Target("TTFT of B, while A streams", ENDLESS, "times_half", at_most=1.2),
        Target("TTFT of B, while A streams", ENDLESS, "times_busy", at_most=1.2),
    )

    def run(self, context: Context) -> Iterable[Sample]:
        for model in (ENDLESS,) if context.quick else (ENDLESS, "5m-4bit"):
            folder = endless_model() if model == ENDLESS else context.models[model]
            with copies_of(folder, 2 if context.quick else 4) as folders:
                for peer in context.able(self.name):
                    if context.quick and peer.name == NO_BATCH:
                        continue
                    with context.attempt(f"{self.name}, {model}, {peer.name}"):
                        yield from self._peer(context, peer, model, folders)
        with copies_of(experts_model(), 2) as folders:
            for peer in context.able(self.name):
                if peer.name != NO_BATCH:
                    with context.attempt(f"{self.name}, {EXPERTS}, {peer.name}"):
                        yield from self._large(context, peer, folders)

    def _large(self, context: Context, peer: Peer, folders: Sequence[Path]) -> Iterator[Sample]:
        amounts = QUICK if context.quick else FULL

        def sample(case: str, values: Values) -> Sample:
            return Sample(self.name, case, EXPERTS, peer.name, context.round, values)

        if peer.name == "limit":
            yield from _limit_turns([str(folder) for folder in folders], amounts, sample)
            return
        with peer.serve(folders) as served:
            yield from _turns(served, folders, amounts, sample)
            yield from _crowd(served, folders, amounts, sample)

    def _peer(self, context: Context, peer: Peer, model: str, folders: Sequence[Path]) -> Iterator[Sample]:
        def sample(case: str, values: Values) -> Sample:
            return Sample(self.name, case, model, peer.name, context.round, values)

        amounts = SLOW if peer.name == NO_BATCH else QUICK if context.quick else FULL
        if peer.name == "limit":
            yield from _limit(folders, amounts, sample)
            return
        with peer.serve(folders) as served:
            yield from _turns(served, folders, amounts, sample)
            if peer.name == NO_BATCH:
                return
            yield from _crowd(served, folders, amounts, sample)
            yield from _b_beside_a(served, folders[0], folders[1], peer, amounts, sample)
        if context.quick:  # each swap takes mlxk a second
            return
        # The others have one slot: their alternating requests are swaps already.
        arguments = ("--max-models", "1") if peer.name == "mlxk" else ()
        with peer.serve(folders[:2], arguments=arguments) as served:
            yield sample(SWAPPED, _swapped(served, folders, amounts))


Make = Callable[[str, Values], Sample]


def _turns(served: Served, folders: Sequence[Path], amounts: Amounts, sample: Make) -> Iterator[Sample]:
    names = [_base(served, folder) for folder in folders]
    for count in (1, 2, 4):
        if count > len(names):
            continue
        some = names[:count]
        asked: dict[str, Any] = {"bases": some, "max_tokens": SHORT_TOKENS}
        call(in_turn, served.url, prompts=_prompts(count), **asked)  # loaded, and warm
        flow = call(in_turn, served.url, prompts=_prompts(amounts.alternating), **asked)
        label = "1 model, steady" if count == 1 else f"{count} models, alternating"
        yield sample(label, per_request(flow.streams))


def _crowd(served: Served, folders: Sequence[Path], amounts: Amounts, sample: Make) -> Iterator[Sample]:
    """Several clients at a time, every other request for the other model."""
    bases = [_base(served, folder) for folder in folders[:2]]
    prompts = _prompts(2 * amounts.alternating)
    bodies = [_body(bases[number % 2], prompt, SHORT_TOKENS) for number, prompt in enumerate(prompts)]
    flow = call(at_once, served.url, bodies=bodies, streams=AT_ONCE)
    values = {**per_request(flow.streams), "requests_per_s": len(bodies) / flow.wall_s}
    yield sample(f"2 models, alternating, {AT_ONCE} clients", values)


def _swapped(served: Served, folders: Sequence[Path], amounts: Amounts) -> Values:
    names = [_base(served, folder) for folder in folders[:2]]
    call(in_turn, served.url, bases=names, prompts=_prompts(2), max_tokens=SHORT_TOKENS)
    prompts = _prompts(2 * amounts.swaps)
    return per_request(
        call(in_turn, served.url, bases=names, prompts=prompts, max_tokens=SHORT_TOKENS).streams
    )


def _b_beside_a(
    served: Served, folder_a: Path, folder_b: Path, peer: Peer, amounts: Amounts, sample: Make
) -> Iterator[Sample]:
    a, b = _base(served, folder_a), _base(served, folder_b)

    def alone() -> Values:
        prompts = _prompts(amounts.beside, B_PROMPT_TOKENS)
        return per_request(call(in_turn, served.url, bases=[b], prompts=prompts, max_tokens=1).streams)

    waits = peer.name != "mlxk"
    call(in_turn, served.url, bases=[b], prompts=_prompts(2), max_tokens=SHORT_TOKENS)
    yield sample("TTFT of B, alone", alone())
    others: dict[str, float] = {}
    with busy_process():
        values = alone()
    others["times_busy"] = values["ttft_ms"]
    yield sample("TTFT of B, beside a busy process", values)
    if hasattr(os, "sched_setaffinity"):
        with half_the_machine(served.pid):
            values = alone()
        others["times_half"] = values["ttft_ms"]
        yield sample("TTFT of B, alone on half of the cores", values)
    flow = call(
        beside,
        served.url,
        a=a,
        b=b,
        prompts=_prompts(amounts.beside, B_PROMPT_TOKENS),
        a_tokens=amounts.a_tokens if waits else 7000,
        waits=waits,
    )
    values = per_request(flow.streams)
    values |= {name: values["ttft_ms"] / other for name, other in others.items()}
    yield sample("TTFT of B, while A streams", values)


def _limit_turns(paths: Sequence[str], amounts: Amounts, sample: Make) -> Iterator[Sample]:
    own = limit_cases.in_own_process
    for count in (1, 2, 4):
        if count <= len(paths):
            label = "1 model, steady" if count == 1 else f"{count} models, alternating"
            prompts = _prompts(amounts.alternating)
            took_s = own(limit_cases.alternate, paths[:count], prompts, SHORT_TOKENS)
            yield sample(label, {"request_ms": 1e3 * took_s, "requests_per_s": 1 / took_s})


def _limit(folders: Sequence[Path], amounts: Amounts, sample: Make) -> Iterator[Sample]:
    paths = [str(folder) for folder in folders]
    own = limit_cases.in_own_process
    yield from _limit_turns(paths, amounts, sample)
    took_s = own(limit_cases.swap, paths[:2], _prompts(2 * amounts.swaps), SHORT_TOKENS)
    values = {"request_ms": 1e3 * took_s, "requests_per_s": 1 / took_s}
    yield sample(SWAPPED, values)
    took_s = own(limit_cases.alternate, paths[:1], _prompts(amounts.beside, B_PROMPT_TOKENS), 1)
    yield sample("TTFT of B, alone", {"request_ms": 1e3 * took_s, "ttft_ms": 1e3 * took_s})


SCENE = Pool()
