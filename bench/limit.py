"""The limit: mlx_lm's BatchGenerator in one process with no server, fed like the servers are.

    python -m bench.limit MODEL_FOLDER --streams 8 --requests 48 --max-tokens 64

Same prompts, same number of running sequences, a new one as soon as one ends; no sockets, no text, no prefix
cache. What a server adds to this is overhead.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict

from mlx_lm import load
from mlx_lm.generate import BatchGenerator

from bench.load_client import PROMPTS, Report, Stream, summarize


def run(folder: str, streams: int, requests: int, max_tokens: int) -> Report:
    model, tokenizer = load(folder)
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        for text in PROMPTS
    ]
    measure(model, tokenizer, prompts, 2, 4, max_tokens)  # compile and warm up
    return measure(model, tokenizer, prompts, streams, requests, max_tokens)


def measure(model, tokenizer, prompts, streams: int, requests: int, max_tokens: int) -> Report:  # type: ignore[no-untyped-def]
    generator = BatchGenerator(
        model, stop_tokens=[[t] for t in tokenizer.eos_token_ids], completion_batch_size=max(streams, 8)
    )
    running: dict[int, Stream] = {}
    done: list[Stream] = []
    asked = 0
    began = time.perf_counter()
    while len(done) < requests:
        while asked < requests and len(running) < streams:
            (uid,) = generator.insert([list(prompts[asked % len(prompts)])], [max_tokens])
            running[uid] = Stream(time.perf_counter())
            asked += 1
        _, responses = generator.next()
        now = time.perf_counter()
        for response in responses:
            stream = running[response.uid]
            stream.tokens += 1
            stream.arrivals.append(now)
            if response.finish_reason:
                stream.finished = True
                done.append(running.pop(response.uid))
    wall_s = time.perf_counter() - began
    generator.close()
    return summarize(done, wall_s)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--max-tokens", type=int, default=64)
    a = parser.parse_args()
    print(json.dumps(asdict(run(a.folder, a.streams, a.requests, a.max_tokens))))


if __name__ == "__main__":
    main()
