"""Whether a good stream keeps its pace beside clients that are slow, silent, many or rude.

    python -m bench.hostile [--rounds 3] [--out bench/results] [--engine fake]

One server with real MLX and `tiny`, all scenes in one run. In each round every scene is measured once: a
stream of 200 tokens, its inter-token times as its client feels them, while another process does the scene's
mischief. What counts is the ratio to the same stream without it just before and after (a shared machine has
its own tides), not the milliseconds. For slow readers, who are answered too, that is the stream beside as
many good readers. The front's CPU time is that of the process, whatever else the machine does.

With `--engine fake` a token comes every 20 ms and costs nothing: what is seen then is the front's part alone,
on a machine that is too busy for MLX to be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from bench.load_client import PROMPTS, ask, percentile
from mlxk import __version__
from tests.server import Server

TOKENS = 200
READERS = 8
CROWD = 1000
SLOW = 200


@dataclass(frozen=True, slots=True)
class Scene:
    key: str
    what: str
    measure: str = "alone"
    """The scene that it is compared with."""


SCENES = (
    Scene("alone", "the stream alone"),
    Scene("good_readers", f"beside {READERS} streams whose clients read"),
    Scene("byte_readers", f"beside {READERS} streams whose clients read one byte a second", "good_readers"),
    Scene("never_read", f"beside {READERS} streams whose clients never read", "good_readers"),
    Scene("slow_heads", f"beside {SLOW} connections that send a header a byte a second"),
    Scene("slow_bodies", f"beside {SLOW} connections that send a body a byte a second"),
    Scene("idle", f"beside {CROWD} idle connections"),
    Scene("refused", f"beside {CROWD} requests at once, all over the queue's limit, again and again"),
    Scene("garbage", "beside bytes that are no HTTP, 50 connections a second"),
    Scene("large_prompts", "beside prompts of 10 MB, one after the other"),
)

Address = tuple[str, int]


# ------------------------------------------------------------------------- mischief


def request(body: dict[str, object], path: str = "/v1/completions") -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def endless(model: str = "tiny") -> bytes:
    return request(
        {"model": model, "prompt": "Count", "max_tokens": 8000, "ignore_eos": True, "stream": True}
    )


async def again(work: Callable[[], Awaitable[None]], pause_s: float = 0.0) -> None:
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await work()
        await asyncio.sleep(pause_s)


async def read_at(address: Address, n_bytes: int, pause_s: float) -> None:
    """A stream whose client takes `n_bytes`, waits, and so on. 0: it takes none."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, address)
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    try:
        writer.write(endless())
        if n_bytes == 0:
            await asyncio.Event().wait()
        piece = b"x"
        while piece:
            piece = await reader.read(n_bytes)
            await asyncio.sleep(pause_s)
    finally:
        writer.close()


async def trickle(address: Address, head: bytes) -> None:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(head)
        while not reader.at_eof() and not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(1)
            if reader._buffer:  # type: ignore[attr-defined]  # answered: it will be closed
                return
    finally:
        writer.close()


async def sit(address: Address) -> None:
    reader, writer = await asyncio.open_connection(*address)
    try:
        await reader.read()
    finally:
        writer.close()


async def send(address: Address, data: bytes) -> None:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(data)
        await writer.drain()
        await reader.read(4096)
    finally:
        writer.close()


async def mischief(key: str, address: Address) -> None:
    """For ever."""
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "
    body = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    large = request({"model": "tiny", "prompt": "The quick brown fox. " * 500_000, "max_tokens": 1})
    # `queue_per_model` is small: all but a few are refused at once.
    crowded = request({"model": "tiny-crowded", "prompt": "Hi", "max_tokens": 1})
    work: dict[str, list[Awaitable[None]]] = {
        "alone": [],
        "good_readers": [again(lambda: read_at(address, 65536, 0)) for _ in range(READERS)],
        "byte_readers": [again(lambda: read_at(address, 1, 1)) for _ in range(READERS)],
        "never_read": [again(lambda: read_at(address, 0, 1)) for _ in range(READERS)],
        "slow_heads": [again(lambda: trickle(address, head)) for _ in range(SLOW)],
        "slow_bodies": [again(lambda: trickle(address, body)) for _ in range(SLOW)],
        "idle": [again(lambda: sit(address)) for _ in range(CROWD)],
        "refused": [again(lambda: send(address, crowded), 5) for _ in range(CROWD)],
        "garbage": [again(lambda: send(address, b"\x16\x03GARBAGE\r\n\r\n"), 0.2) for _ in range(10)],
        "large_prompts": [again(lambda: send(address, large))],
    }
    for name, others in work.items():
        if name != key:
            for one in others:
                one.close()  # type: ignore[attr-defined]
    print("on", flush=True)
    await asyncio.gather(*work[key])


# -------------------------------------------------------------------------- measure


async def measure(address: Address) -> list[float]:
    """Inter-token times of one stream, in ms."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": PROMPTS[0]}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    stream = await ask(*address, body)
    if not stream.finished:
        raise RuntimeError("the good stream was cut")
    return [1e3 * (b - a) for a, b in zip(stream.arrivals, stream.arrivals[1:], strict=False)]


def play(scene: Scene, server: Server) -> dict[str, float]:
    """One stream beside the scene's mischief; returns when the server is idle again."""
    target = urlsplit(server.url)
    address = (target.hostname or "127.0.0.1", target.port or 80)
    command = [sys.executable, "-m", "bench.hostile", "--mischief", scene.key, "--url", server.url]
    culprit = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert culprit.stdout is not None
        culprit.stdout.readline()
        psutil.cpu_percent(interval=2)  # it gets going
        front = psutil.Process(server.pid)
        began, used = time.monotonic(), sum(front.cpu_times()[:2])
        gaps = asyncio.run(measure(address))
        cpu = (sum(front.cpu_times()[:2]) - used) / (time.monotonic() - began)
        rss = psutil.Process(server.pid).memory_info().rss
    finally:
        culprit.kill()
        culprit.wait()
        server.wait_for(lambda models: all(m["in_flight"] + m["queued"] == 0 for m in models.values()), 90)
    return {
        "p50_ms": percentile(gaps, 0.5),
        "p95_ms": percentile(gaps, 0.95),
        "max_ms": max(gaps),
        "front_cpu_percent": 100 * cpu,
        "front_rss_mb": rss / 1e6,
    }


def table(results: dict[str, dict[str, float]], facts: dict[str, object]) -> str:
    lines = [
        "# A good stream beside hostile clients",
        "",
        f"`python -m bench.hostile`: {', '.join(f'{name} {value}' for name, value in facts.items())}.",
        f"Inter-token times of a stream of {TOKENS} tokens, all scenes on one server, median over the",
        "rounds. The ratio is to the stream alone just before and after; for slow readers to that beside as",
        "many good readers.",
        "",
        "| scene | p50 ms | ratio | p95 ms | ratio | longest ms | front CPU % | front MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for scene in SCENES:
        mine = results[scene.key]
        p50, p95 = (f"{mine[name]:.2f}" if name in mine else "" for name in ("p50_ms_ratio", "p95_ms_ratio"))
        lines.append(
            f"| {scene.what} | {mine['p50_ms']:.2f} | {p50} | {mine['p95_ms']:.2f} | {p95} "
            f"| {mine['max_ms']:.0f} | {mine['front_cpu_percent']:.0f} | {mine['front_rss_mb']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def run(rounds: int, out: Path, engine: str) -> None:
    home = Path(tempfile.mkdtemp(prefix="hostile-", dir="/tmp"))
    options = "[models.tiny]\noptions = {step_s = 0.02}\n" if engine == "fake" else ""
    (home / "config.toml").write_text(f'{options}[models.tiny-crowded]\nid = "tiny"\n')
    env = {
        "MLXK_SPARE": "0",
        "MLXK_ENGINE": engine,
        "MLXK_PRELOAD": "tiny",
        "MLXK_LOG_LEVEL": "warning",
        "MLXK_RECEIVE_TIMEOUT": "10s",
        "MLXK_SEND_TIMEOUT": "10s",
        "MLXK_QUEUE_PER_MODEL": "16",
        "MLXK_MAX_BATCH": "16",
    }
    server = Server(home, env=env)
    taken: dict[str, list[dict[str, float]]] = {scene.key: [] for scene in SCENES}
    by_key = {scene.key: scene for scene in SCENES}
    try:
        play(SCENES[0], server)  # what is made once is made now
        for _ in range(rounds):
            for scene in SCENES[1:]:
                quiet = by_key[scene.measure]
                before, here, after = (play(one, server) for one in (quiet, scene, quiet))
                for name in ("p50_ms", "p95_ms"):
                    here[f"{name}_ratio"] = 2 * here[name] / (before[name] + after[name])
                taken[scene.key].append(here)
                taken["alone"] += [before, after] if quiet.key == "alone" else []
    finally:
        server.close()
    results = {
        key: {name: statistics.median(one[name] for one in values) for name in values[0]}
        for key, values in taken.items()
    }
    facts: dict[str, object] = {
        "mlxk": __version__,
        "engine": engine,
        "rounds": rounds,
        "machine": f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} CPUs",
        "load": f"{psutil.getloadavg()[0]:.1f} at the end (the machine was shared)",
        "on": datetime.now(UTC).date().isoformat(),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "hostile.json").write_text(json.dumps({"facts": facts, "rounds": taken}, indent=1) + "\n")
    (out / "hostile.md").write_text(table(results, facts))
    print(table(results, facts))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--engine", choices=("mlx", "fake"), default="mlx")
    parser.add_argument("--mischief", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    a = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    if a.mischief:
        target = urlsplit(a.url)
        asyncio.run(mischief(a.mischief, (target.hostname or "127.0.0.1", target.port or 80)))
    else:
        run(a.rounds, a.out, a.engine)


if __name__ == "__main__":
    main()
