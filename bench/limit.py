"""The limit: mlx_lm's BatchGenerator in one process with no server, fed with the servers' arrivals.

The same prompts, parameters and number of running requests, the next one as soon as one ends; but no
sockets, no text, no prefix cache, and prompts that are encoded before the clock starts. What a server adds to
this is overhead. It is as strong as it honestly can be: all running requests fit into one batch, a whole
prompt is prefilled in one chunk, all that arrive together are prefilled together, and requests that sample
alike share one sampler. (A server that finds a prefix in its cache can pass it: the bench's prompts differ
from their start.)

It speaks JSON lines on its standard streams: `Limit` is the other end.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.client import Flow, Stream
from bench.counter import Counter

_SAMPLING = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
DEFAULT_MAX_TOKENS = 512


class Limit:
    """The process that holds the models. A context manager."""

    def __init__(self, folders: Sequence[Path]) -> None:
        command = [sys.executable, "-P", "-m", "bench.limit", *map(str, folders)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid

    def __enter__(self) -> Limit:
        self._line()  # loaded
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(20)

    def flow(self, folder: Path, bodies: Sequence[dict[str, Any]], streams: int) -> Flow:
        assert self._process.stdin
        order = {"folder": str(folder), "bodies": list(bodies), "streams": streams}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._line(), type=Flow)

    def begin(self, folder: Path, bodies: Sequence[dict[str, Any]], streams: int, counter: Path) -> None:
        """Endless: the bodies again and again, until the `bench.counter.Counter` says stop. Then `finish`."""
        assert self._process.stdin
        order = {"folder": str(folder), "bodies": list(bodies), "streams": streams, "counter": str(counter)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()

    def finish(self) -> None:
        self._line()

    def _line(self) -> bytes:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the limit's process ended with {self._process.wait()}")
        return line


def feed(
    model: Any,
    tokenizer: Any,
    bodies: Sequence[dict[str, Any]],
    streams: int,
    counter: Counter | None = None,
) -> Flow:
    """All of them through one BatchGenerator, `streams` at a time; with a counter, again and again."""
    from mlx_lm.generate import BatchGenerator

    shared = _shared_samplers()
    encoded = [(_encode(tokenizer, body), body, shared(body)) for body in bodies]
    waiting = iter(encoded) if counter is None else itertools.cycle(encoded)
    generator = BatchGenerator(
        model,
        stop_tokens=[[token] for token in tokenizer.eos_token_ids],
        completion_batch_size=streams,
        prefill_batch_size=streams,
        prefill_step_size=8192,
    )
    running: dict[int, Stream] = {}
    done: list[Stream] = []
    gc.collect()
    gc.freeze()
    began, cpu = time.perf_counter(), time.process_time()
    while True:
        for prompt, body, sampler in itertools.islice(waiting, streams - len(running)):
            arrived = time.perf_counter()
            (uid,) = generator.insert(
                [list(prompt)], [body.get("max_tokens", DEFAULT_MAX_TOKENS)], samplers=[sampler]
            )
            running[uid] = Stream(arrived)
        if not running or (counter is not None and counter.stopped):
            break
        _, responses = generator.next()
        now = time.perf_counter()
        if counter is not None:
            counter.arrived(len(responses))
        for response in responses:
            stream = running[response.uid]
            stream.tokens += 1
            stream.arrivals.append(now)
            if response.finish_reason:
                stream.finished, stream.ended = True, now
                done.append(running.pop(response.uid))
                if counter is not None:
                    counter.ended(stream)
    flow = Flow(done, time.perf_counter() - began, time.process_time() - cpu)
    generator.close()
    return flow


def _encode(tokenizer: Any, body: dict[str, Any]) -> list[int]:
    return list(tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True))


def _shared_samplers() -> Callable[[dict[str, Any]], Any]:
    """One sampler object per kind of sampling: a batch that shares one samples in one call."""
    from mlx_lm.sample_utils import make_sampler

    made: dict[tuple[float, ...], Any] = {}

    def sampler(body: dict[str, Any]) -> Any:
        key = tuple(float(body.get(name, default)) for name, default in _SAMPLING.items())
        if key not in made:
            temperature, top_p, top_k, min_p = key
            made[key] = make_sampler(temp=temperature, top_p=top_p, top_k=int(top_k), min_p=min_p)
        return made[key]

    return sampler


def main() -> None:
    from mlx_lm import load

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is the bench's to tell
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is not an answer
    models = {folder: load(folder)[:2] for folder in sys.argv[1:]}
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin:
        order = json.loads(line)
        model, tokenizer = models[order["folder"]]
        counter = Counter(Path(order["counter"])) if "counter" in order else None
        found = feed(model, tokenizer, order["bodies"], order["streams"], counter)
        answers.write(msgspec.json.encode(found) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
