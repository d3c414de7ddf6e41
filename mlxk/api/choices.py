"""The jobs of one HTTP request, merged: one job a choice."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

from mlxk.api.facade import Job, Service
from mlxk.api.records import RequestRecord
from mlxk.api.translate import Plan
from mlxk.workers.protocol import (
    Delta,
    Failed,
    Fault,
    FaultCode,
    Finished,
    FinishReason,
    RequestEvent,
)

_ABORTED = Fault(
    FaultCode.CANCELLED, "The request was aborted by the server before it was finished.", retryable=True
)

Batch = list[tuple[int, list[RequestEvent]]]
"""Index of the choice, and its events in order."""


class Choices:
    """`async with Choices(...) as choices:` submits the plan; leaving closes every job, whatever happened."""

    def __init__(self, service: Service, plan: Plan, record: RequestRecord) -> None:
        self._service = service
        self._plan = plan
        self._record = record
        self._jobs: list[Job] = []
        self._waits: dict[asyncio.Task[list[RequestEvent]], int] = {}

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
        except BaseException:  # also when cancelled: the first of several jobs may run already
            self._close()
            raise
        self._record.model = self.model
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        for wait in self._waits:
            wait.cancel()
        for job in self._jobs:
            job.close()
        if self._jobs:
            self._record.worker = self._jobs[0].worker_id

    async def next(self, timeout_s: float | None = None) -> Batch:
        """What has happened since the last call, [] after `timeout_s`. Not to be called after every choice
        has had its `Finished` or `Failed`."""
        if len(self._jobs) == 1:
            batch = [(0, events)] if (events := await self._jobs[0].next(timeout_s)) else []
        else:
            batch = await self._next_of_any(timeout_s)
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
            if not (events and isinstance(events[-1], Finished | Failed)):
                self._waits[self._wait(index)] = index
        return batch

    def _wait(self, index: int) -> asyncio.Task[list[RequestEvent]]:
        return asyncio.ensure_future(self._jobs[index].next())

    def _note(self, events: list[RequestEvent]) -> None:
        if self._record.ttft_ms is None and any(type(event) is Delta for event in events):
            self._record.ttft_ms = (time.monotonic() - self._record.started_at) * 1000
        if events and isinstance(last := events[-1], Finished) and last.reason is FinishReason.ABORT:
            # Our own abort, by `close`, has no reader. This one is a stop or a shutdown under a client that
            # still waits, and half an answer must not look like a whole one.
            events[-1] = Failed(last.id, _ABORTED)
