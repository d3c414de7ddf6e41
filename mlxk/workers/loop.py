"""The engine thread: new work and aborts are taken between all steps, then one step is made."""

from __future__ import annotations

import logging
import time

from mlxk.workers.channel import Channel
from mlxk.workers.engine import Engine, LoadCancelled
from mlxk.workers.protocol import (
    Abort,
    Drain,
    Failed,
    Fault,
    FaultCode,
    FaultError,
    Finished,
    FromWorker,
    Generate,
    Load,
    LoadFailed,
    LoadProgress,
    Shutdown,
    ToWorker,
    TrimCache,
    Trimmed,
)

log = logging.getLogger("mlxk.worker")

PROGRESS_INTERVAL_S = 0.1


class EngineLoop:
    """Runs one engine until it is told to stop. Every Generate gets exactly one last word."""

    def __init__(self, engine: Engine, channel: Channel) -> None:
        self._engine = engine
        self._channel = channel
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
        self._abort_all()
        self._engine.close()

    def _handle(self, message: ToWorker) -> None:
        match message:
            case Generate():
                self._submit(message)
            case Abort():
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

    def _submit(self, request: Generate) -> None:
        if self._draining or self._stopping or not self._loaded:
            reason = "is stopping" if self._loaded else "has no model"
            refusal = Fault(FaultCode.MODEL_STOPPED, f"The model's process {reason}; try again.", True)
            self._channel.send([Failed(request.id, refusal)])
            return
        self._live.add(request.id)
        try:
            self._emit(self._engine.submit(request))
        except FaultError as error:
            self._emit([Failed(request.id, error.fault)])
        except Exception as error:  # a request must never take the engine down with it
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
            self._live.difference_update(
                message.id for message in messages if isinstance(message, Finished | Failed)
            )

    def _abort_all(self) -> None:
        for request_id in list(self._live):
            self._emit(self._engine.abort(request_id))
