"""Real engines on real models, run step by step in the test's own thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step

from mlxk.workers import mlx_adapter as adapter
from mlxk.workers.mlx_engine import MlxEngine
from mlxk.workers.protocol import (
    Delta,
    Deltas,
    Failed,
    Fault,
    Finished,
    FromWorker,
    Generate,
    Load,
    Progress,
    Sampling,
    Started,
)
from mlxk.workers.sequences import Sequence

GREEDY = Sampling(temperature=0)
CACHE_BYTES = 1 << 26


class RecordingEngine(MlxEngine):
    """The engine, and a note of every token that its batch gave to a request."""

    def __init__(self) -> None:
        super().__init__()
        self.sampled: dict[str, list[int]] = {}

    def _on_token(
        self, sequence: Sequence, token: adapter.BatchToken, deltas: list[Delta], out: list[FromWorker]
    ) -> None:
        self.sampled.setdefault(sequence.request.id, []).append(token.token)
        super()._on_token(sequence, token, deltas, out)


def load_engine(
    path: Path, *, cache_bytes: int = CACHE_BYTES, context_length: int | None = None, **options: Any
) -> RecordingEngine:
    engine = RecordingEngine()
    spec = Load(path.name, str(path), cache_bytes, context_length=context_length, options=options)
    engine.load(spec, lambda done, total: None)
    return engine


@dataclass
class Reply:
    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    started: Started | None = None
    progress: list[Progress] = field(default_factory=list)
    finished: Finished | None = None
    fault: Fault | None = None
    tokens: list[int] = field(default_factory=list)
    reported: int = 0
    """Sum of the deltas' token counts."""

    @property
    def cached(self) -> int:
        assert self.started is not None
        return self.started.cached_tokens

    @property
    def text(self) -> tuple[str, str]:
        return self.content, self.reasoning


class Conversation:
    """Everything that an engine has said, sorted by request."""

    def __init__(self, engine: RecordingEngine) -> None:
        self.engine = engine
        self.replies: dict[str, Reply] = {}

    def submit(self, *requests: Generate) -> None:
        for request in requests:
            self.take(self.engine.submit(request))

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.take(self.engine.step())

    def abort(self, request_id: str) -> None:
        self.take(self.engine.abort(request_id))

    def run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            assert not self.engine.idle
            self.step()

    def finish(self) -> None:
        while not self.engine.idle:
            self.step()

    def take(self, messages: list[FromWorker]) -> None:
        for message in messages:
            if isinstance(message, Deltas):
                for delta in message.items:
                    self._add(delta)
                continue
            assert isinstance(message, Started | Progress | Finished | Failed)
            reply = self.replies.setdefault(message.id, Reply())
            assert reply.finished is None, "a word after the last word"
            assert reply.fault is None, "a word after the last word"
            if isinstance(message, Started):
                reply.started = message
                self.engine.sampled.pop(message.id, None)
                reply.tokens = self.engine.sampled.setdefault(message.id, [])
            elif isinstance(message, Progress):
                reply.progress.append(message)
            elif isinstance(message, Finished):
                reply.finished = message
            else:
                reply.fault = message.fault

    def _add(self, delta: Delta) -> None:
        reply = self.replies[delta.id]
        assert reply.finished is None
        reply.content += delta.content
        reply.reasoning += delta.reasoning
        reply.calls += [(call.name, call.arguments) for call in delta.tool_calls]
        reply.reported += delta.tokens


def run(engine: RecordingEngine, *requests: Generate) -> dict[str, Reply]:
    conversation = Conversation(engine)
    conversation.submit(*requests)
    conversation.finish()
    return conversation.replies


def run_one(engine: RecordingEngine, **request: Any) -> Reply:
    return run(engine, Generate("one", **{"sampling": GREEDY, **request}))["one"]


def reference(engine: MlxEngine, prompt: list[int], n_tokens: int) -> list[int]:
    """What mlx_lm's own loop for one sequence generates, greedily and past any end."""
    steps = generate_step(mx.array(prompt), engine._model, max_tokens=n_tokens)
    return [int(token) for token, _ in steps]


def agree(engine: MlxEngine, prompt: list[int], got: list[int], wanted: list[int], tie: float) -> bool:
    """The same tokens, or different ones from a place at which the model's two best are as good as equal:
    a batch adds up its numbers in another order than a single sequence."""
    if got == wanted:
        return True
    place = next(
        (i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted))
    )
    if place == min(len(got), len(wanted)):
        return False
    logits = engine._model(mx.array([prompt + wanted[:place]]))[0, -1].astype(mx.float32)
    return abs(float(logits[got[place]] - logits[wanted[place]])) < tie


def encode(engine: MlxEngine, text: str) -> list[int]:
    return list(engine._tokenizer.encode(text, add_special_tokens=False))
