"""The jobs of one HTTP request, merged: one job a choice."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
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
    """None: for ever."""
    shorter = left_s if timeout_s is None else min(timeout_s, left_s)
    return None if shorter == math.inf else shorter


class Choices:
    """`async with Choices(...) as choices:` submits the plan; leaving closes every job, whatever happened."""

    def __init__(self, service: Service, plan: Plan, record: RequestRecord) -> None:
        self._service = service
        self._plan = plan
        self._record = record
        self._jobs: list[Job] = []
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
        left_s = self.left_s
        if left_s <= 0:
            return self.overdue()
        if batch := self.take_now():
            return batch
        news = asyncio.Event()
        self.listen(news.set)
        try:
            async with asyncio.timeout(_shorter(timeout_s, left_s)):
                await news.wait()
        except TimeoutError:
            pass
        finally:
            self.listen(None)
        return self.take_now()

    async def first_words(self, timeout_s: float) -> Batch:
        """What happens until every choice was heard of, one has failed, or `timeout_s` are over: each prompt
        may still be refused by the worker, and an answer that has begun cannot become a status any more."""
        give_up_at = time.monotonic() + timeout_s
        unheard = set(range(len(self._jobs)))
        batch: Batch = []
        while unheard and self._fault is None and (left_s := give_up_at - time.monotonic()) > 0:
            news = await self.next(left_s)
            unheard.difference_update(index for index, _ in news)
            batch += news
        return batch

    @property
    def left_s(self) -> float:
        """Until `request_timeout` has passed; infinite without one."""
        return self._deadline - time.monotonic()

    def overdue(self) -> Batch:
        """The end of what is not finished in time: the jobs are aborted when this is left."""
        return self._noted([(0, [Failed(self._plan.id, self._too_late())])])

    def listen(self, on_events: Callable[[], object] | None) -> None:
        """Instead of `next`: `on_events` is called when there is something for `take_now`. None: no more."""
        for job in self._jobs:
            job.listen(on_events)

    def take_now(self) -> Batch:
        """What has happened since the last call."""
        batch = [(index, events) for index, job in enumerate(self._jobs) if (events := job.take_now())]
        return self._noted(batch)

    async def all(self) -> Batch:
        """Everything that happens, when every choice has ended, one has failed, or the time is over. Nobody
        is woken for what comes in between."""
        ended = asyncio.Event()
        ended.set()  # one may have ended before anybody listened
        for job in self._jobs:
            job.listen(None, ended.set)
        batch: Batch = []
        n_open = len(self._jobs)
        left_s = self.left_s
        try:
            async with asyncio.timeout(None if left_s == math.inf else left_s):
                while n_open and self._fault is None:
                    await ended.wait()
                    ended.clear()
                    news = self.take_now()
                    n_open -= sum(isinstance(events[-1], LastWord) for _, events in news)
                    batch += news
        except TimeoutError:
            batch += self.overdue()
        finally:
            self.listen(None)
        return batch

    def _noted(self, batch: Batch) -> Batch:
        for _, events in batch:
            self._note(events)
        return batch

    def _too_late(self) -> Fault:
        """`request_timeout` has passed: the jobs are aborted when this is left."""
        text = (
            f"The request was not finished within {self._deadline - self._record.started_at:g} s "
            "(request_timeout) and has been aborted. Ask for fewer tokens, or raise the limit."
        )
        return Fault(FaultCode.DEADLINE_EXCEEDED, text)

    def _note(self, events: list[RequestEvent]) -> None:
        if not events:
            return
        if isinstance(last := events[-1], Finished) and last.reason is FinishReason.ABORT:
            # Our own abort, by `close`, has no reader. This one is a stop or a shutdown under a client that
            # still waits, and half an answer must not look like a whole one.
            events[-1] = Failed(last.id, _ABORTED)
        if self._fault is None and isinstance(last := events[-1], Failed):
            self._fault = last.fault
