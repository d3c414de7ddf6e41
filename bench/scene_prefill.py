"""(d) A long prompt arrives while eight streams decode, and a short one beside them.

Inter-token times of the eight before and during the prefill, and the TTFT of a short request beside the eight
and beside eight and prefill, in milliseconds and in engine steps: a step is the median inter-token time
before. `chunk_steps` is an inter-token time in units of the limit's step with one chunk of the prefill in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from bench import limit_cases
from bench.client import Client, Stream, call
from bench.models import ENDLESS, endless_model
from bench.scene import Context, Peer, Sample, Target
from bench.words import Messages, fresh_text, user

STREAMS = 8
WARM_EVENTS = 10
"""Of each stream, before anything is measured."""
LONG_TOKENS, SHORT_TOKENS = 2000, 4
COMPLETIONS = "/v1/completions"
"""Short ones are bare text: a chat template alone would be several steps' work here."""
Values = dict[str, float]
Body = dict[str, Any]
Texts = tuple[list[Messages], list[str], list[Messages]]


# ------------------------------------------------------------------ in the client's process


async def arrivals(
    client: Client,
    base: Body,
    others: list[Messages],
    shorts: list[str],
    longs: list[Messages],
    alone: int,
) -> list[Stream]:
    """The streams that decode; then the short requests beside them, all but the last; then the two long ones;
    then the last short one, which came in the middle of the second long one's prefill."""
    watched = [_Watched(client, base, prompt) for prompt in others]
    try:
        for stream in watched:
            await stream.reached(WARM_EVENTS)
        for stream in watched:
            await stream.reached(WARM_EVENTS + alone)
        found = []
        for short in shorts[:-1]:
            found.append(await client.ask({**base, "prompt": short, "max_tokens": 2}, path=COMPLETIONS))
            await watched[0].reached(len(watched[0].told.arrivals) + 5)
        first = await client.ask(_body(base, longs[0], 2))
        await watched[0].reached(len(watched[0].told.arrivals) + 5)
        second = asyncio.create_task(client.ask(_body(base, longs[1], 2)))
        await asyncio.sleep(first.ttft_s / 3)
        last = await client.ask({**base, "prompt": shorts[-1], "max_tokens": 2}, path=COMPLETIONS)
        for stream in watched:
            if stream.task.done():
                raise RuntimeError(f"a stream ended before the end: {stream.told.error or 'its last token'}")
        return [*(one.told for one in watched), *found, first, await second, last]
    finally:
        for stream in watched:
            await stream.leave()


class _Watched:
    """A stream whose events others wait for."""

    def __init__(self, client: Client, base: Body, prompt: Messages) -> None:
        self.told = Stream(0.0)
        self._event = asyncio.Event()
        self.task = asyncio.create_task(client.ask(_body(base, prompt, 6000), on_piece=self._note))

    def _note(self, stream: Stream) -> None:
        self.told = stream
        self._event.set()

    async def reached(self, events: int) -> None:
        while len(self.told.arrivals) < events:
            if self.task.done():
                raise RuntimeError(f"a stream ended early: {(await self.task).error or 'its last token'}")
            self._event.clear()
            waiting = asyncio.create_task(self._event.wait())
            await asyncio.wait((waiting, self.task), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()

    async def leave(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


def _body(base: Body, messages: Messages, max_tokens: int) -> Body:
    return {**base, "messages": messages, "max_tokens": max_tokens}


# ------------------------------------------------------------------------------ figures


def gaps_within(streams: Sequence[Stream], begin: float, end: float) -> list[float]:
    """Milliseconds between the events of each stream, of those gaps that reach into the window."""
    return [
        1e3 * (b - a)
        for stream in streams
        for a, b in itertools.pairwise(stream.arrivals)
        if b > begin and a < end
    ]


def of_gaps(gaps: Sequence[float]) -> Values:
    ordered = sorted(gaps)
    return {
        "inter_token_ms_p50": ordered[len(ordered) // 2],
        "inter_token_ms_p95": ordered[int(0.95 * len(ordered))],
        "inter_token_ms_max": ordered[-1],
    }


def of_ttft(streams: Sequence[Stream], step_ms: float) -> Values:
    for stream in streams:
        if not stream.arrivals:
            raise RuntimeError(stream.error or "no token")
    ttft_ms = 1e3 * statistics.median(stream.ttft_s for stream in streams)
    return {
        "ttft_ms": ttft_ms,
        "ttft_steps": ttft_ms / step_ms,
        "over_two_steps_ms": ttft_ms - 2 * step_ms,
    }


def rows(streams: Sequence[Stream], chunk_step_ms: float | None) -> dict[str, Values]:
    """Values of each case."""
    eight, beside, (long, _, last) = streams[:STREAMS], streams[STREAMS:-3], streams[-3:]
    begin = max(stream.arrivals[WARM_EVENTS - 1] for stream in eight)
    before = of_gaps(gaps_within(eight, begin, beside[0].began))
    during = of_gaps(gaps_within(eight, long.began, long.arrivals[0]))
    step_ms = before["inter_token_ms_p50"]
    during |= {"ttft_ms": 1e3 * long.ttft_s, "times_the_step_p95": during["inter_token_ms_p95"] / step_ms}
    if chunk_step_ms is not None:
        during |= {"chunk_steps_p95": during["inter_token_ms_p95"] / chunk_step_ms}
    return {
        "8 streams decode": before,
        "a long prompt arrives": during,
        "a short request beside the 8": of_ttft(beside, step_ms),
        "a short request beside the 8 and the prefill": of_ttft([last], step_ms),
    }


class LongPrefill:
    name = "d-prefill"
    headline = "inter_token_ms_p95"
    columns = (
        *("inter_token_ms_p50", "inter_token_ms_p95", "inter_token_ms_max"),
        *("chunk_step_ms", "chunk_steps_p95", "ttft_ms", "ttft_steps", "over_two_steps_ms"),
    )
    targets = (
        Target("a long prompt arrives", ENDLESS, "chunk_steps_p95", at_most=2),
        Target("a long prompt arrives", ENDLESS, "inter_token_ms_p95", "mlx_lm.server", at_most=1),
        Target("a short request beside the 8", ENDLESS, "over_two_steps_ms", at_most=5),
    )
    cannot: ClassVar[dict[str, str]] = {"mlx-knife": "it does not batch: the streams wait for each other"}

    def run(self, context: Context) -> Iterable[Sample]:
        for model in (ENDLESS,) if context.quick else (ENDLESS, "5m-4bit"):
            chunk_step_ms: float | None = None
            texts = _texts(context.quick)
            able = [peer for peer in context.able(self.name) if peer.name not in self.cannot]
            # The limit comes first: the others' gaps are told in units of its step.
            for peer in sorted(able, key=lambda peer: peer.name != "limit"):
                with context.attempt(f"{self.name}, {model}, {peer.name}"):
                    found = self._peer(context, peer, model, texts, chunk_step_ms)
                    for case, values in found.items():
                        chunk_step_ms = values.get("chunk_step_ms", chunk_step_ms)
                        yield Sample(self.name, case, model, peer.name, context.round, values)

    def _peer(
        self,
        context: Context,
        peer: Peer,
        model: str,
        texts: Texts,
        chunk_step_ms: float | None,
    ) -> dict[str, Values]:
        folder = endless_model() if model == ENDLESS else context.models[model]
        others, shorts, longs = texts
        alone = 20 if context.quick else 60
        if peer.name == "limit":
            own = limit_cases.in_own_process
            return own(limit_cases.arrival, str(folder), others, shorts, longs, alone)
        with peer.serve([folder]) as served:
            asked: dict[str, Any] = {"others": others, "shorts": shorts, "longs": longs, "alone": alone}
            flow = call(arrivals, served.url, base=served.body(folder, {"temperature": 0}), **asked)
        return rows(flow.streams, chunk_step_ms)


def _texts(quick: bool) -> Texts:
    """Prompts of those that decode, the short and the long ones."""
    others = [user(fresh_text(20)) for _ in range(STREAMS)]
    shorts = [fresh_text(SHORT_TOKENS) for _ in range(4 if quick else 8)]
    return others, shorts, [user(fresh_text(LONG_TOKENS)) for _ in range(2)]


SCENE = LongPrefill()
