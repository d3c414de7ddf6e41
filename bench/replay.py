"""A server that computes nothing: it replays event streams made beforehand, as fast as its sockets take them.

It shows what the load client can take. Each token is a write of its own, and the streams take turns, so that
the client reads them as it reads a real server's; only the computing is missing.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

TOKENS = 64
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: close\r\n\r\n"
)


def _chunk(event: bytes) -> bytes:
    body = b"data: " + event + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(body), body)


def frames() -> list[bytes]:
    """Shaped and sized like a real server's."""
    about = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": "replay"}

    def event(**more: object) -> bytes:
        return _chunk(json.dumps({**about, **more}).encode())

    def choice(delta: dict[str, str], reason: str | None = None) -> list[object]:
        return [{"index": 0, "delta": delta, "finish_reason": reason}]

    usage = {"prompt_tokens": 16, "completion_tokens": TOKENS, "total_tokens": 16 + TOKENS}
    return [
        event(choices=choice({"role": "assistant"})),
        *[event(choices=choice({"content": " word"})) for _ in range(TOKENS)],
        event(choices=choice({}, "length")),
        event(choices=[], usage=usage),
        _chunk(b"[DONE]") + b"0\r\n\r\n",
    ]


async def _serve() -> None:
    written = frames()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(_HEAD)
        for frame in written:
            writer.write(frame)
            await asyncio.sleep(0)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, os.read, 0, 1)  # until the bench is gone
    server.close()


@contextmanager
def replay() -> Iterator[str]:
    """Its URL."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bench.replay"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.communicate()


if __name__ == "__main__":
    uvloop.run(_serve())
