"""Tokenizing for its own sake, and of long prompts, in a thread of its own: a text of megabytes takes
seconds, and neither the other requests' next token nor an abort may wait for it."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from dataclasses import dataclass
from typing import Any

import msgspec

from mlxk.workers.channel import Channel
from mlxk.workers.engine import Engine
from mlxk.workers.protocol import (
    Detokenize,
    Detokenized,
    Failed,
    Fault,
    FaultCode,
    FaultError,
    Generate,
    Tokenize,
    Tokenized,
)

log = logging.getLogger("mlxk.worker")

_GONE = Fault(FaultCode.CANCELLED, "The request was aborted by the server before it was finished.", True)


LONG_PROMPT_BYTES = 64 * 1024
"""About 0.1 s of tokenizing. What is shorter costs less than the way through the clerk's hands."""
LONG_PROMPT_TOKENS = 64 * 1024


def is_long(request: Generate) -> bool:
    """Whether its prompt is the clerk's work."""
    if request.tokens is not None:
        return len(request.tokens) > LONG_PROMPT_TOKENS
    source = [request.prompt, request.messages, request.tools]
    return len(msgspec.msgpack.encode(source)) > LONG_PROMPT_BYTES


@dataclass(frozen=True, slots=True)
class Prepared:
    """A `Generate` with its prompt made, on its way back to the engine thread."""

    request: Generate
    prompt: Any
    """What `Engine.prepare` returned."""


class Clerk:
    """Takes one request at a time. `take`, `abort` and `close` are called by the engine thread.

    Who pops a request from `_open` says its last word; a dict's `pop` is one step, so exactly one does.
    """

    def __init__(self, engine: Engine, channel: Channel) -> None:
        self._engine = engine
        self._channel = channel
        self._open: dict[str, Tokenize | Detokenize | Generate] = {}
        self._orders: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def take(self, request: Tokenize | Detokenize | Generate) -> None:
        self._open[request.id] = request
        self._orders.put(request.id)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="clerk", daemon=True)
            self._thread.start()

    def abort(self, request_id: str) -> bool:
        """False if it is none of ours, or ended. One that is in the works goes on, for nobody."""
        if self._open.pop(request_id, None) is None:
            return False
        self._channel.send([Failed(request_id, _GONE)])
        return True

    def hand_back(self, prepared: Prepared) -> bool:
        """The engine thread takes over. False if the request was aborted meanwhile."""
        return self._open.pop(prepared.request.id, None) is not None

    def close(self) -> None:
        """Gives what is open its last word. Does not wait: the process is about to end."""
        for request_id in list(self._open):
            self.abort(request_id)
        self._orders.put(None)

    def _run(self) -> None:
        while (request_id := self._orders.get()) is not None:
            request = self._open.get(request_id)
            if request is None:
                continue  # aborted while it waited
            answer = self._answer(request)
            if isinstance(answer, Prepared):
                self._channel.post(answer)  # it stays open until it is handed back: an abort may come first
                continue
            with contextlib.suppress(KeyError):
                del self._open[request_id]
                self._channel.send([answer])

    def _answer(
        self, request: Tokenize | Detokenize | Generate
    ) -> Tokenized | Detokenized | Prepared | Failed:
        try:
            if isinstance(request, Generate):
                return Prepared(request, self._engine.prepare(request))
            if isinstance(request, Tokenize):
                return self._engine.tokenize(request)
            return self._engine.detokenize(request)
        except FaultError as error:
            return Failed(request.id, error.fault)
        except BaseException as error:  # this request's alone; a tokenizer's panic (Rust) is no Exception
            log.exception("request %s failed", request.id)
            message = f"The tokenizer failed: {type(error).__name__}: {error}"
            return Failed(request.id, Fault(FaultCode.ENGINE_ERROR, message))
