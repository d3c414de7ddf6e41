"""The stand-in engine of the tests: real process, real protocol, no model, and faults at will.

It answers `w0 w1 w2 …` (a word a token, `max_tokens` of them, 16 by default), the same for the same
request. Its tokens are the UTF-8 bytes of a text, or of the messages as JSON. Its faults are switched by
`fake.json` in the model's folder or by `Load.options`:

    load_s, load_fails, load_hangs, die_in_load      what happens while loading
    load_until, prefill_until                        a file: it goes on, but does not end before that is there
    prepare_s                                        how long the clerk takes over a long prompt
    prefill_steps, prefill_step_s                    how long a prompt takes (all of a step's time, not more)
    step_s, crash_at_step, hang_at_step              what happens while generating
    ignore_sigterm, slow_abort_s, deaf_to_shutdown   what happens when it should end
    flood_log_lines, long_log_line_bytes             what it prints at load
    print_lines, binary_output_bytes                 the same: given lines; escapes and all other bytes
    grandchild                                       starts a process that holds the log's pipe and lives on
    fail_request: text                               a prompt with this text fails alone
    tokenize_s                                       how long tokenizing takes
    memory_bytes                                     what it claims to hold
    hold_bytes, entry_bytes                          what it does hold: itself, and a prompt in its cache

MLXK_FAKE_START (JSON) does the same before Hello: {"die": code}, {"hang": true}, {"slow_s": 1.5}; and right
after it: {"die_at_hello": code}.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
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
    Detokenize,
    Detokenized,
    FaultCode,
    Finished,
    FinishReason,
    FromWorker,
    Generate,
    Load,
    Loaded,
    Progress,
    Started,
    Tokenize,
    Tokenized,
    Usage,
    WorkerStats,
    fault,
)

CONTEXT = 4096
LONG_PROMPT_CHARS = 65_536
DEFAULT_WORDS = 16


@dataclass(slots=True)
class FakeSequence:
    request: Generate
    n_prompt: int
    cached: int
    max_tokens: int
    prefill_steps: int = 0
    prefilled: int = 0
    generated: int = 0


class FakeEngine:
    """`engine.Engine` without a model."""

    name = "fake"

    def __init__(self) -> None:
        self._live: dict[str, FakeSequence] = {}
        self._faults: dict[str, Any] = {}
        self._seen: dict[str, bytes] = {}
        """The prefix cache: prompt -> the memory that its entry takes."""
        self._cache_bytes = 0
        self._steps = 0
        self._step_began: float | None = None
        self._generated = 0
        self._hits = self._misses = self._reused = 0
        self._start_faults = json.loads(os.environ.get("MLXK_FAKE_START", "{}"))
        _fail_at_start(self._start_faults)

    @property
    def working_set_bytes(self) -> int | None:
        value = self._start_faults.get("working_set_bytes")
        return None if value is None else int(value)

    @property
    def idle(self) -> bool:
        if "die_at_hello" in self._start_faults:  # first asked when Hello is with the I/O thread
            time.sleep(0.05)
            print("fake engine: dying at Hello", file=sys.stderr, flush=True)
            os._exit(int(self._start_faults["die_at_hello"]))
        return not self._live

    def load(self, spec: Load, progress: ProgressCallback) -> Loaded:
        began = time.monotonic()
        self._faults = _read_faults(spec)
        self._cache_bytes = spec.cache_bytes
        self._held = _really_hold(int(self._faults.get("hold_bytes", 0)))
        if self._faults.get("ignore_sigterm"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._print_floods()
        if self._faults.get("grandchild"):
            self._grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        if self._faults.get("die_in_load"):
            print("fake engine: dying in load", file=sys.stderr, flush=True)
            os._exit(17)
        while self._faults.get("load_hangs"):
            time.sleep(0.05)
        duration_s = float(self._faults.get("load_s", 0))
        while (passed := time.monotonic() - began) < duration_s:
            progress(int(1000 * passed / duration_s), 1000)
            time.sleep(0.01)
        while self._waits("load_until"):
            progress(500, 1000)
            time.sleep(0.01)
        if self._faults.get("load_fails"):
            raise fault(FaultCode.MODEL_LOAD_FAILED, "The fake model was told not to load.")
        progress(1000, 1000)
        return Loaded(CONTEXT, 1000, 1000, time.monotonic() - began, Capabilities(tools=True))

    def prepare(self, request: Generate) -> None:
        time.sleep(float(self._faults.get("prepare_s", 0)))

    def submit(self, request: Generate, prepared: Any = None) -> list[FromWorker]:
        text = _as_text(request)
        unwanted = self._faults.get("fail_request")
        if unwanted and unwanted in text:
            raise ValueError(f"the fake engine fails on {unwanted!r}")
        n_prompt = max(1, len(text) // 4)
        cached = n_prompt - 1 if text in self._seen else 0
        self._hits, self._misses = self._hits + bool(cached), self._misses + (not cached)
        self._reused += cached
        if text not in self._seen:
            self._seen[text] = _really_hold(int(self._faults.get("entry_bytes", 100)))
            self._limit_cache()
        max_tokens = request.max_tokens or DEFAULT_WORDS
        prefill_steps = int(self._faults.get("prefill_steps", 0))
        self._live[request.id] = FakeSequence(request, n_prompt, cached, max_tokens, prefill_steps)
        return [Started(request.id, n_prompt, cached, max_tokens)]

    def step(self) -> list[FromWorker]:
        self._step_began = time.monotonic()
        if self._steps == self._faults.get("crash_at_step"):
            print("fake engine: crashing on request", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._steps == self._faults.get("hang_at_step"):
            print("fake engine: hanging in a step", file=sys.stderr, flush=True)
        while self._steps == self._faults.get("hang_at_step"):
            time.sleep(0.05)
        out: list[FromWorker] = self._prefill()
        time.sleep(float(self._faults.get("step_s", 0)))
        deltas: list[Delta] = []
        for sequence in list(self._live.values()):
            if sequence.prefilled < sequence.prefill_steps:
                continue
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

    def _prefill(self) -> list[FromWorker]:
        waiting = [one for one in self._live.values() if one.prefilled < one.prefill_steps]
        if not waiting:
            return []
        time.sleep(float(self._faults.get("prefill_step_s", 0)))
        held_back = self._waits("prefill_until")  # its last step
        for sequence in waiting:
            sequence.prefilled = min(sequence.prefilled + 1, sequence.prefill_steps - held_back)
        return [
            Progress(one.request.id, one.n_prompt * one.prefilled // one.prefill_steps, one.n_prompt)
            for one in waiting
        ]

    def abort(self, request_id: str) -> list[FromWorker]:
        sequence = self._live.get(request_id)
        if sequence is None:
            return []
        time.sleep(float(self._faults.get("slow_abort_s", 0)))
        return [self._end(sequence, FinishReason.ABORT)]

    def tokenize(self, request: Tokenize) -> Tokenized:
        time.sleep(float(self._faults.get("tokenize_s", 0)))
        chat = None if request.messages is None else json.dumps(request.messages, ensure_ascii=False)
        tokens = list((chat or request.prompt or "").encode())
        names = [f"<{token:02x}>" for token in tokens] if request.return_token_strs else None
        return Tokenized(request.id, tokens, CONTEXT, names)

    def detokenize(self, request: Detokenize) -> Detokenized:
        time.sleep(float(self._faults.get("tokenize_s", 0)))
        if not all(0 <= token < 256 for token in request.tokens):
            message = "A token id is outside of the vocabulary (0 to 255)."
            raise fault(FaultCode.INVALID_REQUEST, message, param="tokens")
        return Detokenized(request.id, bytes(request.tokens).decode(errors="replace"))

    def trim_cache(self, max_bytes: int, memory_bytes: int | None = None) -> int:
        before = sum(map(len, self._seen.values()))
        self._cache_bytes = max_bytes
        self._limit_cache()
        return before - sum(map(len, self._seen.values()))

    def _limit_cache(self) -> None:
        while self._seen and sum(map(len, self._seen.values())) > self._cache_bytes:
            del self._seen[next(iter(self._seen))]

    def stats(self) -> WorkerStats:
        began = self._step_began
        sizes = [len(entry) for entry in list(self._seen.values())]  # called by another thread
        memory = int(self._faults.get("memory_bytes", 1000))
        return WorkerStats(
            steps=self._steps,
            step_age_s=0.0 if began is None else time.monotonic() - began,
            in_flight=len(self._live),
            active_bytes=memory,
            peak_bytes=memory,
            generated_tokens=self._generated,
            cache=CacheStats(len(sizes), sum(sizes), self._hits, self._misses, self._reused),
        )

    def close(self) -> None:
        while self._faults.get("deaf_to_shutdown"):
            time.sleep(0.05)

    def _end(self, sequence: FakeSequence, reason: FinishReason) -> Finished:
        del self._live[sequence.request.id]
        return Finished(
            sequence.request.id, reason, Usage(sequence.n_prompt, sequence.generated, sequence.cached)
        )

    def _waits(self, fault: str) -> bool:
        return fault in self._faults and not Path(self._faults[fault]).exists()

    def _print_floods(self) -> None:
        for i in range(int(self._faults.get("flood_log_lines", 0))):
            print(f"fake engine: flood line {i} {'x' * 80}")
        length = int(self._faults.get("long_log_line_bytes", 0))
        if length:
            print("y" * length)
        sys.stdout.flush()
        for line in self._faults.get("print_lines", []):
            print(line, file=sys.stderr, flush=True)
        if length := int(self._faults.get("binary_output_bytes", 0)):
            os.write(1, b"fake engine: binary \x1b]0;title\x07\x1b[2J\n")
            os.write(1, (bytes(range(256)) * (length // 256 + 1))[:length] + b"\n")


def _as_text(request: Generate) -> str:
    """What stands for the prompt. 10 MB of it as JSON would keep all other sequences waiting for 50 ms and
    more, which the real engine does not do: it is prepared in another thread."""
    if request.prompt is not None and len(request.prompt) > LONG_PROMPT_CHARS:
        return request.prompt
    return json.dumps(request.messages or request.prompt or request.tokens)


def _really_hold(n_bytes: int) -> bytes:
    """Memory that the system sees in use: every page is written."""
    return b"x" * n_bytes


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
