"""What the loop asks of an engine. Two implementations: `mlx_engine` and `fake_engine`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mlxk.workers.protocol import (
    Detokenize,
    Detokenized,
    FromWorker,
    Generate,
    Load,
    Loaded,
    Tokenize,
    Tokenized,
    WorkerStats,
)


class LoadCancelled(Exception):
    """Raised by a load's progress callback when the front wants the worker gone."""


ProgressCallback = Callable[[int, int], None]
"""(done_bytes, total_bytes) of the weights; may raise LoadCancelled."""


class Engine(Protocol):
    """A model and its batch. All methods are called by the engine thread, `stats` by any; `prepare`,
    `tokenize` and `detokenize` by the clerk's, beside a step: they make no MLX call."""

    name: str

    @property
    def working_set_bytes(self) -> int | None:
        """What Metal recommends for all processes of the machine together; None where there is no Metal."""

    @property
    def idle(self) -> bool:
        """Nothing to do until new work comes."""

    def load(self, spec: Load, progress: ProgressCallback) -> Loaded:
        """Read the model. Raises FaultError with a message for the user, or LoadCancelled."""

    def prepare(self, request: Generate) -> Any:
        """The part of `submit` that takes long with a long prompt. Raises FaultError."""

    def submit(self, request: Generate, prepared: Any = None) -> list[FromWorker]:
        """Take a request into the batch, with what `prepare` returned if it was called. Raises FaultError if
        it cannot run; others are unaffected."""

    def step(self) -> list[FromWorker]:
        """Advance all requests by one token or one prefill chunk."""

    def abort(self, request_id: str) -> list[FromWorker]:
        """End a request now, keeping its prefix. Unknown ids are ignored."""

    def tokenize(self, request: Tokenize) -> Tokenized:
        """The tokens that `submit` would make of the same prompt. Raises FaultError."""

    def detokenize(self, request: Detokenize) -> Detokenized:
        """Raises FaultError for ids outside of the vocabulary."""

    def trim_cache(self, max_bytes: int, memory_bytes: int | None = None) -> int:
        """Keep the prefix cache within `max_bytes` from now on, and the process within `memory_bytes`.
        Returns how many bytes less it holds."""

    def stats(self) -> WorkerStats: ...

    def close(self) -> None:
        """Release the memory."""
