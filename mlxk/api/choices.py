"""The jobs of one HTTP request, merged: one job a choice."""

from __future__ import annotations

import asyncio
import math
import time
from types import TracebackType

from mlxk.api.facade import Job, Service
from mlxk.api.records import CLIENT_GONE, RequestRecord
from mlxk.api.translate import Plan
from mlxk.api.usage import note_progress
from mlxk.workers.protocol import (
    Failed,
    Fault,
    FaultCode,
    FaultError,
    Finished,
    FinishReason,
    LastWord,
    RequestEvent,
)

_ABORTED = Fault(
    FaultCode.CANCELLED, "The request was aborted by the server before it was finished.", retryable=True
)

Batch = list[tuple[int, list[RequestEvent]]]
"""Index of the choice, and its events in order."""


def _shorter(timeout_s: float | None, left_s: float) -> float | None:
    """None: for ever, which is the cheap case of every token."""
    shorter = left_s if timeout_s is None else min(timeout_s, left_s)
    return None if shorter == math.inf else shorter


class Choices:
    """`async with Choices(...) as choices:` submits the plan; leaving closes every job, whatever happened."""

    def __init__(self, service: Service, plan: Plan, record: RequestRecord) -> None:
        self._service = service
        self._plan = plan
        self._record = record
        self._jobs: list[Job] = []
        self._waits: dict[asyncio.Task[list[RequestEvent]], int] = {}
        self._fault: Fault | None = None
        """Of the first choice that failed."""
        timeout_s = service.settings.request_timeout_s
        self._deadline = record.started_at + timeout_s if timeout_s > 0 else math.inf

    @property
    def model(self) -> str:
        """Canonical name."""
        return self._jobs[0].model

    async def __aenter__(self) -> Choices:
        """Raises FaultError: unknown model, queue full, shutting down."""
        try:
            for generate in self._plan.generates:
                job = await self._service.submit(
                    self._plan.model, generate, keep_alive_s=self._plan.keep_alive_s
                )
                self._jobs.append(job)
        except BaseException as error:  # also when cancelled: the first of several jobs may run already
            self._close(self._cause(error))
            raise
        self._record.model, self._record.generation = self.model, self._plan.id
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(self._cause(error))

    def _close(self, cause: str) -> None:
        for wait in self._waits:
            wait.cancel()
        for job in self._jobs:
            job.close(cause)
        if self._jobs:
            self._record.worker = self._jobs[0].worker_id
            note_progress(self._record, [job.meter for job in self._jobs if job.meter], self._plan.n)

    def _cause(self, error: BaseException | None) -> str:
        """Why those that still run are closed. (Of what has ended it says nothing.)"""
        if isinstance(error, FaultError):
            return error.fault.code.value
        if self._fault is not None:
            return self._fault.code.value
        if isinstance(error, Exception):
            return FaultCode.INTERNAL.value
        return FaultCode.SHUTTING_DOWN.value if self._service.is_closing() else CLIENT_GONE

    async def next(self, timeout_s: float | None = None) -> Batch:
        """What has happened since the last call, [] after `timeout_s`. Not to be called after every choice
        has had its last word."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            batch: Batch = [(0, [Failed(self._plan.id, self._too_late())])]
        elif len(self._jobs) == 1:
            events = await self._jobs[0].next(_shorter(timeout_s, left_s))
            batch = [(0, events)] if events else []
        else:
            batch = await self._next_of_any(_shorter(timeout_s, left_s))
        for _, events in batch:
            self._note(events)
        return batch

    async def _next_of_any(self, timeout_s: float | None) -> Batch:
        if not self._waits:
            self._waits = {self._wait(index): index for index in range(len(self._jobs))}
        done, _ = await asyncio.wait(self._waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        batch: Batch = []
        for index, wait in sorted((self._waits.pop(wait), wait) for wait in done):
            events = wait.result()
            batch.append((index, events))
            if not (events and isinstance(events[-1], LastWord)):
                self._waits[self._wait(index)] = index
        return batch

    def _too_late(self) -> Fault:
        """`request_timeout` has passed: the jobs are aborted when this is left."""
        text = (
            f"The request was not finished within {self._deadline - self._record.started_at:g} s "
            "(request_timeout) and has been aborted. Ask for fewer tokens, or raise the limit."
        )
        return Fault(FaultCode.DEADLINE_EXCEEDED, text)

    def _wait(self, index: int) -> asyncio.Task[list[RequestEvent]]:
        return asyncio.ensure_future(self._jobs[index].next())

    def _note(self, events: list[RequestEvent]) -> None:
        if not events:
            return
        if isinstance(last := events[-1], Finished) and last.reason is FinishReason.ABORT:
            # Our own abort, by `close`, has no reader. This one is a stop or a shutdown under a client that
            # still waits, and half an answer must not look like a whole one.
            events[-1] = Failed(last.id, _ABORTED)
        if self._fault is None and isinstance(last := events[-1], Failed):
            self._fault = last.fault
