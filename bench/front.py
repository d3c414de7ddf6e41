"""CPU time of the front per token, with and without the metrics: `python -m bench.front`.

From a worker's frame to the bytes of an event stream: decoding, mailbox, reader, frames. Without sockets,
which cost more (`bench.front_trees` has them). Both ways alternate in one process, so that what else the
machine does hits them alike.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import zmq

from mlxk.api.sse import StreamWriter
from mlxk.api.translate import plan_chat
from mlxk.api.wire import Turn
from mlxk.config.settings import Settings
from mlxk.supervisor.mailbox import Mailbox
from mlxk.supervisor.meters import GenerationMeter, ModelMeter
from mlxk.supervisor.switchboard import Switchboard
from mlxk.workers.protocol import (
    Delta,
    Deltas,
    Finished,
    FinishReason,
    FromWorker,
    Started,
    Usage,
    encode_from_worker,
)

ROUNDS = 15
STREAMS, STEPS = 16, 500


class _Reader:
    """A stream without a connection: what `Middle` does."""

    def __init__(self, mailbox: Mailbox, turn: Turn) -> None:
        plan = plan_chat(
            {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}, Settings()
        )
        self._mailbox = mailbox
        self.writer = StreamWriter(plan, "m", 0)
        self.size = 0
        mailbox.listen(lambda: turn.add(self._flush))

    def _flush(self, now: float) -> None:
        self.size += len(self.writer.write([(0, self._mailbox.take_now())]))


def _frames() -> list[bytes]:
    ids = [f"{number:016x}" for number in range(STREAMS)]
    steps: list[list[FromWorker]] = [[Started(one, 10, 0, STEPS) for one in ids]]
    steps += [[Deltas([Delta(one, " word") for one in ids])] for _ in range(STEPS)]
    steps.append([Finished(one, FinishReason.LENGTH, Usage(10, STEPS)) for one in ids])
    return [encode_from_worker(step) for step in steps]


async def _round(board: Switchboard, frames: list[bytes], *, counted: bool) -> float:
    """Microseconds of CPU per token."""
    model = ModelMeter()
    readers, turn = [], Turn()
    for number in range(STREAMS):
        mailbox = Mailbox(GenerationMeter(model) if counted else None)
        board.open("w1", f"{number:016x}", mailbox)
        readers.append(_Reader(mailbox, turn))
    began = time.process_time()
    for frame in frames:
        board._on_frame("w1", frame)
        await asyncio.sleep(0)  # the readers' turn, as after each frame of a worker
    took_s = time.process_time() - began
    assert all(reader.writer.done for reader in readers)
    assert model.generated_tokens == (STREAMS * STEPS if counted else 0)
    return took_s / (STREAMS * STEPS) * 1e6


async def _compare() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with tempfile.TemporaryDirectory() as folder:
        board = Switchboard(context, f"ipc://{Path(folder) / 's'}")
        board.connect_worker("w1", lambda message: None, lambda: None)
        frames = _frames()
        without, counted = [], []
        for _ in range(ROUNDS):
            without.append(await _round(board, frames, counted=False))
            counted.append(await _round(board, frames, counted=True))
        board.close()
    context.term()
    ratio = statistics.median(b / a for a, b in zip(without, counted, strict=True))
    print(f"{STREAMS} streams, {STEPS} tokens each, {ROUNDS} rounds of both, medians:")
    print(f"without metrics {statistics.median(without):.2f} µs of CPU a token")
    print(f"with metrics    {statistics.median(counted):.2f} µs of CPU a token")
    print(f"ratio           {ratio:.3f}")


if __name__ == "__main__":
    sys.exit(asyncio.run(_compare()))
