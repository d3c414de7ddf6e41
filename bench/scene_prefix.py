"""(b) Prefix reuse: what a second request gains from what the first one computed.

Every text is new to every server (`words.fresh_text`), so cold is cold; all peers get the same texts in a
round. `cached_tokens` is what the server's own usage says. The limit has in its cache whatever the second
prompt shares with the first, for caches that cannot be cut back too: no server can find more.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bench import limit_cases
from bench.client import Client, Stream, call
from bench.scene import Context, Peer, Sample, Target
from bench.words import Messages, fresh_text, user, with_system

MAX_TOKENS = 8
TALK_TOKENS = 16
QUESTION = 24
"""Tokens of a question, and of what a person says in a turn."""
LEAVE_AFTER = 12
"""Tokens after which a client leaves."""
PAUSE_S = 0.1
"""Between leaving and asking again: a person's quickest."""
NEVER_WORSE = (
    *("shared prefix of 500", "shared prefix of 2000", "exact repeat of 500", "exact repeat of 2000"),
    *("shared 1000, in one message", "again after leaving in the answer, 500"),
    *("conversation of 6 turns", "conversation of 20 turns", "8 conversations interleaved"),
)
"""Than mlx_lm.server."""
UNTRIMMABLE = ("5m-window", "5m-state")
Values = dict[str, float]


@dataclass(frozen=True)
class Pairs:
    """A cold request, then one that shares its beginning."""

    label: str
    pairs: list[tuple[Messages, Messages]]
    leave: bool = False
    """The first one's client leaves in the middle of the answer."""
    leave_in_prefill: bool = False
    """A third request between the two, and its client leaves half way to the first token; the last one asks
    the same as it did."""


@dataclass(frozen=True)
class Talks:
    """Conversations that take turns; each turn sends all that was said before."""

    label: str
    systems: list[str]
    turns: list[list[str]] = field(default_factory=list)
    """What the person says, for each conversation."""


Case = Pairs | Talks


def cases_for(model: str, quick: bool) -> list[Case]:
    """What fits a round's time: most where most is known of the caches."""
    small = model == "tiny"
    long = 500 if not small else 1000 if quick else 2000
    lengths = (500,) if quick or model in UNTRIMMABLE else (500, 2000) if small else (2000,)
    shared = [Pairs(f"shared prefix of {n}", [_sharing(n)]) for n in lengths]
    inside_tokens = long if small or quick else 1000  # further than one checkpoint of a prefill
    text = fresh_text(inside_tokens)
    tails = [user(f"{text} {fresh_text(QUESTION)}") for _ in range(2)]
    inside = Pairs(f"shared {inside_tokens}, in one message", [(tails[0], tails[1])])
    repeat = with_system(fresh_text(long), fresh_text(QUESTION))
    repeated = Pairs(f"exact repeat of {long}", [(repeat, repeat)])
    left = with_system(fresh_text(500), "Count from 1 to 900, one number per line")
    aborted = Pairs("again after leaving in the answer, 500", [(left, left)], leave=True)
    half = with_system(fresh_text(long), fresh_text(QUESTION))
    early = Pairs(f"again after leaving in the prefill, {long}", [(half, half)], leave_in_prefill=True)
    n_turns = 20 if small and not quick else 6
    talk = Talks(f"conversation of {n_turns} turns", [fresh_text(100)], [_lines(n_turns)])
    several = Talks("8 conversations interleaved", [fresh_text(200) for _ in range(8)], [_lines(3)] * 8)
    if quick:
        return [*shared, repeated, aborted, talk] if small else [inside]
    if model in UNTRIMMABLE:
        return [*shared, inside, repeated, aborted, talk]
    return [*shared, inside, repeated, aborted, early, talk, several] if small else [*shared, aborted]


def _sharing(tokens: int) -> tuple[Messages, Messages]:
    system = fresh_text(tokens)
    return with_system(system, fresh_text(QUESTION)), with_system(system, fresh_text(QUESTION))


def _lines(turns: int) -> list[str]:
    return [fresh_text(QUESTION) for _ in range(turns)]


# ------------------------------------------------------------------ in the client's process


async def pairs(
    client: Client, base: dict[str, Any], pairs: list[Any], leave: bool, leave_in_prefill: bool
) -> list[Stream]:
    """Cold and warm of each pair, one after the other."""
    found = []
    for first, second in pairs:
        if leave_in_prefill:
            other = with_system(fresh_text(sum(len(m["content"].split()) for m in first)), "And now?")
            cold = await client.ask(_body(base, other))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(client.ask(_body(base, first)), cold.ttft_s / 2)
            await asyncio.sleep(PAUSE_S)
        elif leave:
            cold = await client.ask(_body(base, first, 400), abort_after=LEAVE_AFTER)
            if cold.finished:
                raise RuntimeError("the answer ended before its client left")
            await asyncio.sleep(PAUSE_S)
        else:
            cold = await client.ask(_body(base, first))
        found += [cold, await client.ask(_body(base, second))]
    return found


async def talks(
    client: Client, base: dict[str, Any], systems: list[str], turns: list[list[str]]
) -> list[Stream]:
    """The first turn of all conversations, then the second of all, and so on."""
    histories: list[Messages] = [[{"role": "system", "content": system}] for system in systems]
    found = []
    for said in zip(*turns, strict=True):
        for history, text in zip(histories, said, strict=True):
            history += user(text)
            stream = await client.ask(_body(base, history, TALK_TOKENS))
            found.append(stream)
            history.append({"role": "assistant", "content": stream.text})
    return found


def _body(base: dict[str, Any], messages: Messages, max_tokens: int = MAX_TOKENS) -> dict[str, Any]:
    return {**base, "messages": messages, "max_tokens": max_tokens}


# ------------------------------------------------------------------------------ figures


def figures(rows: Sequence[Values]) -> Values:
    """Medians over a case's requests; `times_shorter` is cold to warm."""
    cold, warm = ([row[f"ttft_{which}_ms"] for row in rows] for which in ("cold", "warm"))
    return {
        "ttft_cold_ms": statistics.median(cold),
        "ttft_warm_ms": statistics.median(warm),
        "times_shorter": statistics.median(a / b for a, b in zip(cold, warm, strict=True)),
        "cached_tokens": statistics.median(row["cached_tokens"] for row in rows),
        "prompt_tokens": statistics.median(row["prompt_tokens"] for row in rows),
        "computed_tokens": statistics.median(row["prompt_tokens"] - row["cached_tokens"] for row in rows),
    }


def _row(cold: Stream, warm: Stream) -> Values:
    return {
        "ttft_cold_ms": 1e3 * cold.ttft_s,
        "ttft_warm_ms": 1e3 * warm.ttft_s,
        "cached_tokens": warm.cached_tokens,
        "prompt_tokens": warm.usage.get("prompt_tokens") or 0,
    }


def of_servers(case: Case, url: str, base: dict[str, Any]) -> Values:
    if isinstance(case, Pairs):
        flow = call(
            pairs,
            url,
            base=base,
            pairs=case.pairs,
            leave=case.leave,
            leave_in_prefill=case.leave_in_prefill,
        )
        rows = [_row(cold, warm) for cold, warm in zip(flow.streams[::2], flow.streams[1::2], strict=True)]
        answers = flow.streams[1::2]
    else:
        flow = call(talks, url, base=base, systems=case.systems, turns=case.turns)
        n = len(case.systems)
        answers = flow.streams
        rows = [
            _row(flow.streams[number % n], warm) for number, warm in enumerate(flow.streams) if number >= n
        ]
    for stream in answers:
        if not stream.finished:
            raise RuntimeError(f"{case.label}: {stream.error}")
    return {**figures(rows), "client_cpu_share": flow.cpu_share}


def of_limit(cases: Sequence[Case], folder: str) -> list[Values]:
    jobs: list[dict[str, Any]] = [
        {"pairs": case.pairs}
        if isinstance(case, Pairs)
        else {"systems": case.systems, "turns": case.turns, "max_tokens": TALK_TOKENS}
        for case in cases
    ]
    return [figures(rows) for rows in limit_cases.in_own_process(limit_cases.prefixes, folder, jobs)]


class PrefixReuse:
    name = "b-prefix"
    headline = "ttft_warm_ms"
    columns = ("ttft_cold_ms", "ttft_warm_ms", "times_shorter", "cached_tokens", "prompt_tokens")

    targets = (
        *[
            Target(case, "tiny", "times_shorter", at_least=20)
            for case in ("shared prefix of 2000", "exact repeat of 2000")
        ],
        Target("again after leaving in the answer, 500", "tiny", "computed_tokens", at_most=1),
        *[
            Target(case, model, "ttft_warm_ms", "mlx_lm.server", at_most=1.0)
            for model in ("tiny", "5m", *UNTRIMMABLE)
            for case in NEVER_WORSE
        ],
    )
    cannot: ClassVar[dict[str, str]] = {
        "mlx-knife": "it reuses no prefix (cached tokens 0, warm as long as cold), and cannot read `tiny`"
    }

    def run(self, context: Context) -> Iterable[Sample]:
        models = ("tiny",) if context.quick else ("tiny", "5m", "5m-window", "5m-state")
        for model in models:
            cases = cases_for(model, context.quick)
            for peer in context.able(self.name):
                if peer.name in self.cannot:
                    continue
                with context.attempt(f"{self.name}, {model}, {peer.name}"):
                    yield from self._peer(context, peer, model, cases)

    def _peer(self, context: Context, peer: Peer, model: str, cases: Sequence[Case]) -> Iterator[Sample]:
        folder = context.models[model]
        if peer.name == "limit":
            for case, values in zip(cases, of_limit(cases, str(folder)), strict=True):
                yield Sample(self.name, case.label, model, peer.name, context.round, values)
            return
        with peer.serve([folder]) as served:
            base = served.body(folder, {"temperature": 0})
            of_servers(Pairs("warm up", [(user("one"), user("two"))]), served.url, base)
            for case in cases:
                with context.attempt(f"{self.name}, {model}, {peer.name}, {case.label}"):
                    values = of_servers(case, served.url, base)
                    yield Sample(self.name, case.label, model, peer.name, context.round, values)


SCENE = PrefixReuse()
