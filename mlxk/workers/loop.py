"""The engine thread: new work and aborts are taken between all steps, then one step is made."""

from __future__ import annotations

import logging
import time
from typing import Any

from mlxk.workers.channel import Channel
from mlxk.workers.clerk import Clerk, Prepared, is_long
from mlxk.workers.engine import Engine, LoadCancelled
from mlxk.workers.protocol import (
    Abort,
    Detokenize,
    Drain,
    Failed,
    Fault,
    FaultCode,
    FaultError,
    FromWorker,
    Generate,
    LastWord,
    Load,
    LoadFailed,
    LoadProgress,
    Shutdown,
    Tokenize,
    ToWorker,
    TrimCache,
    Trimmed,
)

log = logging.getLogger("mlxk.worker")

PROGRESS_INTERVAL_S = 0.1


class EngineLoop:
    """Runs one engine until it is told to stop. Every request gets exactly one last word."""

    def __init__(self, engine: Engine, channel: Channel) -> None:
        self._engine = engine
        self._channel = channel
        self._clerk = Clerk(engine, channel)
        self._loaded = False
        self._draining = False
        self._stopping = False
        self._live: set[str] = set()

    def run(self) -> None:
        """Returns after a Shutdown; lets nothing that a request provoked escape."""
        while not self._stopping:
            for message in self._channel.take(block=self._engine.idle):
                self._handle(message)
            if not self._stopping and not self._engine.idle:
                self._emit(self._engine.step())
        self._clerk.close()
        self._abort_all()
        self._engine.close()

    def _handle(self, message: ToWorker | Prepared) -> None:
        match message:
            case Generate():
                if not self._refused(message.id):
                    self._take(message)
            case Prepared():
                if self._clerk.hand_back(message):
                    self._submit(message.request, message.prompt)
            case Tokenize() | Detokenize():
                if not self._refused(message.id):
                    self._clerk.take(message)
            case Abort():
                if not self._clerk.abort(message.id):
                    self._emit(self._engine.abort(message.id))
            case Load():
                self._load(message)
            case TrimCache():
                if self._loaded:
                    freed_bytes = self._engine.trim_cache(message.max_bytes, message.memory_bytes)
                    self._channel.send([Trimmed(message.max_bytes, freed_bytes)])
            case Drain():
                self._draining = True
            case Shutdown():
                self._stopping = True

    def _refused(self, request_id: str) -> bool:
        """Tells the request so, if there is no model to work on it."""
        if self._loaded and not (self._draining or self._stopping):
            return False
        reason = "is stopping" if self._loaded else "has no model"
        refusal = Fault(FaultCode.MODEL_STOPPED, f"The model's process {reason}; try again.", True)
        self._channel.send([Failed(request_id, refusal)])
        return True

    def _take(self, request: Generate) -> None:
        if is_long(request):
            self._clerk.take(request)
        else:
            self._submit(request)

    def _submit(self, request: Generate, prompt: Any = None) -> None:
        """`prompt`: what the clerk has made of it already."""
        self._live.add(request.id)
        try:
            self._emit(self._engine.submit(request, prompt))
        except FaultError as error:
            self._emit([Failed(request.id, error.fault)])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # must not take the engine down: also a tokenizer's panic (Rust)
            log.exception("request %s could not start", request.id)
            message = f"The request could not be started: {type(error).__name__}: {error}"
            self._emit([Failed(request.id, Fault(FaultCode.ENGINE_ERROR, message))])

    def _load(self, spec: Load) -> None:
        last = 0.0

        def progress(done_bytes: int, total_bytes: int) -> None:
            nonlocal last
            if self._channel.shutdown_requested.is_set():
                raise LoadCancelled
            now = time.monotonic()
            if done_bytes >= total_bytes or now - last >= PROGRESS_INTERVAL_S:
                last = now
                self._channel.send([LoadProgress(done_bytes, total_bytes)])

        try:
            loaded = self._engine.load(spec, progress)
        except LoadCancelled:
            self._stopping = True
        except FaultError as error:
            self._channel.send([LoadFailed(error.fault)])
        except Exception as error:
            log.exception("loading %s failed", spec.name)
            message = f"The model {spec.name!r} could not be loaded: {type(error).__name__}: {error}"
            self._channel.send([LoadFailed(Fault(FaultCode.MODEL_LOAD_FAILED, message))])
        else:
            self._loaded = True
            self._channel.send([loaded])

    def _emit(self, messages: list[FromWorker]) -> None:
        if messages:
            self._channel.send(messages)
            self._live.difference_update(message.id for message in messages if isinstance(message, LastWord))

    def _abort_all(self) -> None:
        for request_id in list(self._live):
            self._emit(self._engine.abort(request_id))
