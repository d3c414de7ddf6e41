"""The stand-in engine of the tests: real process, real protocol, no model, and faults at will.

It answers `w0 w1 w2 …` (a word a token, `max_tokens` of them, 16 by default), the same for the same
request. Its faults are switched by `fake.json` in the model's folder or by `Load.options`:

    load_s, load_fails, load_hangs, die_in_load      what happens while loading
    step_s, crash_at_step, hang_at_step              what happens while generating
    ignore_sigterm, slow_abort_s, deaf_to_shutdown   what happens when it should end
    flood_log_lines, long_log_line_bytes             what it prints at load
    fail_request: text                               a prompt with this text fails alone
    memory_bytes                                     what it claims to hold

MLXK_FAKE_START (JSON) does the same before Hello: {"die": code}, {"hang": true}, {"slow_s": 1.5}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxk.workers.engine import ProgressCallback
from mlxk.workers.protocol import (
    CacheStats,
    Capabilities,
    Delta,
    Deltas,
    FaultCode,
    Finished,
    FinishReason,
    FromWorker,
    Generate,
    Load,
    Loaded,
    Started,
    Usage,
    WorkerStats,
    fault,
)

CONTEXT = 4096
DEFAULT_WORDS = 16


@dataclass(slots=True)
class FakeSequence:
    request: Generate
    n_prompt: int
    cached: int
    max_tokens: int
    generated: int = 0


class FakeEngine:
    """`engine.Engine` without a model."""

    name = "fake"

    def __init__(self) -> None:
        self._live: dict[str, FakeSequence] = {}
        self._faults: dict[str, Any] = {}
        self._seen: set[str] = set()
        self._steps = 0
        self._step_began: float | None = None
        self._generated = 0
        self._hits = self._misses = self._reused = 0
        _fail_at_start(json.loads(os.environ.get("MLXK_FAKE_START", "{}")))

    @property
    def idle(self) -> bool:
        return not self._live

    def load(self, spec: Load, progress: ProgressCallback) -> Loaded:
        began = time.monotonic()
        self._faults = _read_faults(spec)
        if self._faults.get("ignore_sigterm"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._print_floods()
        if self._faults.get("die_in_load"):
            print("fake engine: dying in load", file=sys.stderr, flush=True)
            os._exit(17)
        while self._faults.get("load_hangs"):
            time.sleep(0.05)
        duration_s = float(self._faults.get("load_s", 0))
        while (passed := time.monotonic() - began) < duration_s:
            progress(int(1000 * passed / duration_s), 1000)
            time.sleep(0.01)
        if self._faults.get("load_fails"):
            raise fault(FaultCode.MODEL_LOAD_FAILED, "The fake model was told not to load.")
        progress(1000, 1000)
        return Loaded(CONTEXT, 1000, 1000, time.monotonic() - began, Capabilities(tools=True))

    def submit(self, request: Generate) -> list[FromWorker]:
        text = json.dumps(request.messages or request.prompt or request.tokens)
        unwanted = self._faults.get("fail_request")
        if unwanted and unwanted in text:
            raise ValueError(f"the fake engine fails on {unwanted!r}")
        n_prompt = max(1, len(text) // 4)
        cached = n_prompt - 1 if text in self._seen else 0
        self._hits, self._misses = self._hits + bool(cached), self._misses + (not cached)
        self._reused += cached
        self._seen.add(text)
        max_tokens = request.max_tokens or DEFAULT_WORDS
        self._live[request.id] = FakeSequence(request, n_prompt, cached, max_tokens)
        return [Started(request.id, n_prompt, cached, max_tokens)]

    def step(self) -> list[FromWorker]:
        self._step_began = time.monotonic()
        if self._steps == self._faults.get("crash_at_step"):
            print("fake engine: crashing on request", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        while self._steps == self._faults.get("hang_at_step"):
            time.sleep(0.05)
        time.sleep(float(self._faults.get("step_s", 0)))
        deltas: list[Delta] = []
        out: list[FromWorker] = []
        for sequence in list(self._live.values()):
            deltas.append(
                Delta(sequence.request.id, f"{' ' if sequence.generated else ''}w{sequence.generated}")
            )
            sequence.generated += 1
            self._generated += 1
            if sequence.generated >= sequence.max_tokens:
                out.append(self._end(sequence, FinishReason.LENGTH))
        self._steps += 1
        self._step_began = None
        return [Deltas(deltas), *out]

    def abort(self, request_id: str) -> list[FromWorker]:
        sequence = self._live.get(request_id)
        if sequence is None:
            return []
        time.sleep(float(self._faults.get("slow_abort_s", 0)))
        return [self._end(sequence, FinishReason.ABORT)]

    def trim_cache(self, max_bytes: int) -> None:
        self._seen.clear()

    def stats(self) -> WorkerStats:
        began = self._step_began
        entries = len(self._seen)
        memory = int(self._faults.get("memory_bytes", 1000))
        return WorkerStats(
            steps=self._steps,
            step_age_s=0.0 if began is None else time.monotonic() - began,
            in_flight=len(self._live),
            active_bytes=memory,
            peak_bytes=memory,
            generated_tokens=self._generated,
            cache=CacheStats(entries, 100 * entries, self._hits, self._misses, self._reused),
        )

    def close(self) -> None:
        while self._faults.get("deaf_to_shutdown"):
            time.sleep(0.05)

    def _end(self, sequence: FakeSequence, reason: FinishReason) -> Finished:
        del self._live[sequence.request.id]
        return Finished(
            sequence.request.id, reason, Usage(sequence.n_prompt, sequence.generated, sequence.cached)
        )

    def _print_floods(self) -> None:
        for i in range(int(self._faults.get("flood_log_lines", 0))):
            print(f"fake engine: flood line {i} {'x' * 80}")
        length = int(self._faults.get("long_log_line_bytes", 0))
        if length:
            print("y" * length)
        sys.stdout.flush()


def _read_faults(spec: Load) -> dict[str, Any]:
    path = Path(spec.path) / "fake.json"
    written = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {**written, **spec.options}


def _fail_at_start(faults: dict[str, Any]) -> None:
    if "die" in faults:
        print("fake engine: dying at start", file=sys.stderr, flush=True)
        os._exit(int(faults["die"]))
    while faults.get("hang"):
        time.sleep(0.05)
    time.sleep(float(faults.get("slow_s", 0)))
