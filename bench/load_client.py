"""A light load client for any OpenAI-compatible server: bare sockets, one JSON line of results.

    python -m bench.load_client URL MODEL --streams 8 --requests 48 --max-tokens 64

It keeps `--streams` requests running until `--requests` are done, and measures as a client feels it:
tokens/s of all streams, time to first token, time between tokens. Standard library only, so that it takes
little of the machine it shares with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import asdict, dataclass, field
from urllib.parse import urlparse

PROMPTS = [f"Count from {first} to 20, one number per line" for first in range(1, 9)]
"""The same for all servers, in the same order. Different, but alike in length."""


@dataclass
class Stream:
    """What one request felt like. Times are seconds of `time.perf_counter`."""

    began: float
    arrivals: list[float] = field(default_factory=list)
    tokens: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Report:
    tokens_per_s: float
    tokens: int
    wall_s: float
    ttft_ms_p50: float
    ttft_ms_p95: float
    inter_token_ms_p50: float
    inter_token_ms_p95: float
    requests: int
    failed: int


def percentile(values: list[float], share: float) -> float:
    """Nearest rank; 0.0 for no values."""
    if not values:
        return 0.0
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def summarize(streams: list[Stream], wall_s: float) -> Report:
    good = [stream for stream in streams if stream.finished]
    ttft = [1e3 * (stream.arrivals[0] - stream.began) for stream in good if stream.arrivals]
    gaps = [1e3 * (b - a) for s in good for a, b in zip(s.arrivals, s.arrivals[1:], strict=False)]
    tokens = sum(stream.tokens for stream in good)
    return Report(
        tokens_per_s=round(tokens / wall_s, 1),
        tokens=tokens,
        wall_s=round(wall_s, 3),
        ttft_ms_p50=round(percentile(ttft, 0.5), 2),
        ttft_ms_p95=round(percentile(ttft, 0.95), 2),
        inter_token_ms_p50=round(percentile(gaps, 0.5), 2),
        inter_token_ms_p95=round(percentile(gaps, 0.95), 2),
        requests=len(streams),
        failed=len(streams) - len(good),
    )


async def ask(host: str, port: int, body: dict[str, object]) -> Stream:
    """One streamed chat completion."""
    payload = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    stream = Stream(time.perf_counter())
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(head.encode() + payload)
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                stream.finished = True
                break
            take_event(stream, json.loads(line[6:]))
    finally:
        writer.close()
    return stream


def take_event(stream: Stream, event: dict) -> None:  # type: ignore[type-arg]
    usage = event.get("usage")
    if usage:
        stream.tokens = usage["completion_tokens"]
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"):
            stream.arrivals.append(time.perf_counter())


async def run(url: str, model: str, streams: int, requests: int, max_tokens: int) -> Report:
    target = urlparse(url)
    places = asyncio.Semaphore(streams)

    async def one(number: int) -> Stream:
        async with places:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}],
                "max_tokens": max_tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            return await ask(target.hostname or "127.0.0.1", target.port or 80, body)

    began = time.perf_counter()
    done = await asyncio.gather(*(one(number) for number in range(requests)))
    return summarize(list(done), time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--max-tokens", type=int, default=64)
    a = parser.parse_args()
    print(json.dumps(asdict(asyncio.run(run(a.url, a.model, a.streams, a.requests, a.max_tokens)))))


if __name__ == "__main__":
    main()
