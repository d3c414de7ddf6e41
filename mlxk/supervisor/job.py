"""One request on its way: waiting for a lease, running, ended. Every job ends exactly once."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

from mlxk.store.catalog import ModelRef
from mlxk.supervisor.mailbox import Mailbox
from mlxk.supervisor.meters import GenerationMeter, Meters
from mlxk.supervisor.pool import Pool
from mlxk.supervisor.records import Lease
from mlxk.supervisor.switchboard import Switchboard
from mlxk.workers.protocol import (
    Abort,
    Failed,
    Fault,
    FaultCode,
    FaultError,
    Finished,
    FinishReason,
    Generate,
    RequestEvent,
    Work,
)

log = logging.getLogger("mlxk.job")

CLIENT_GONE = "client_gone"
"""Why a job was closed, unless something else is said."""

_numbers = itertools.count(1)


def new_request_id() -> str:
    """Short, and unique in this front."""
    return f"r{next(_numbers)}"


class Job:
    """Made by `Service.submit`; read with `next`, always ended with `close`."""

    def __init__(
        self,
        ref: ModelRef,
        request: Work,
        pool: Pool,
        switchboard: Switchboard,
        *,
        keep_alive_s: float | None,
        abort_grace_s: float,
        meters: Meters,
    ) -> None:
        self.id = request.id
        self.model = ref.name
        self.worker_id: str | None = None
        self._request = request
        self._pool = pool
        self._switchboard = switchboard
        self._abort_grace_s = abort_grace_s
        self.meter = GenerationMeter(meters.of(ref.name)) if isinstance(request, Generate) else None
        """None for what generates nothing."""
        self._mailbox = Mailbox(self.meter)
        self._lease: Lease | None = None
        self._cause: str | None = None
        """Why it was closed, if it was before its end."""
        self._overdue: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._run(ref, keep_alive_s), name=f"job-{self.id}")
        self._task.add_done_callback(self._count_end)

    async def next(self, timeout_s: float | None = None) -> list[RequestEvent]:
        """Events in order: Started, Progress*, Delta*, then one `LastWord`. [] after `timeout_s`.

        Returns all that has come since the last call. Must not be called after the last word.
        """
        return await self._mailbox.take(timeout_s)

    def listen(
        self, on_events: Callable[[], object] | None, on_end: Callable[[], object] | None = None
    ) -> None:
        """As `Mailbox.listen`: instead of waiting in `next`."""
        self._mailbox.listen(on_events, on_end)

    def take_now(self) -> list[RequestEvent]:
        """What has come since the last call."""
        return self._mailbox.take_now()

    def close(self, cause: str = CLIENT_GONE) -> None:
        """Idempotent, returns at once. Aborts what still runs; the worker keeps the prefix. `cause` is for
        the metrics: a `FaultCode`'s value, or that the client has left."""
        if self._task.done() or self._mailbox.settled.is_set():
            return
        self._cause = self._cause or cause
        if self._lease is None:
            self._task.cancel()
        elif self._overdue is None:
            self._switchboard.send(self._lease.worker_id, Abort(self.id))
            loop = asyncio.get_running_loop()
            self._overdue = loop.call_later(self._abort_grace_s, self._on_overdue, self._lease)

    def fail(self, reason: Fault) -> None:
        """Give the reader its last word now (the server is closing) and abort the work."""
        self._mailbox.put(Failed(self.id, reason))
        self.close(reason.code.value)

    def on_done(self, callback: Callable[[Job], object]) -> None:
        """Called when neither pool nor worker has anything to do with this job any more."""
        self._task.add_done_callback(lambda _: callback(self))

    @property
    def settled(self) -> asyncio.Task[None]:
        """Done at that moment. For `asyncio.wait` only: a bare await would pass its cancellation on."""
        return self._task

    async def _run(self, ref: ModelRef, keep_alive_s: float | None) -> None:
        try:
            is_brief = not isinstance(self._request, Generate)
            self._lease = await self._pool.acquire(ref, keep_alive_s, is_brief=is_brief)
        except FaultError as error:
            self._mailbox.put(Failed(self.id, error.fault))
            return
        if self.meter is not None:
            self.meter.on_granted()
        try:
            await self._work(self._lease)
        except Exception as error:  # a value that msgpack cannot hold, say: the reader must not wait for ever
            log.exception("job %s failed", self.id)
            text = f"The request could not be sent to the model: {type(error).__name__}: {error}"
            self._switchboard.fail_request(self.id, Fault(FaultCode.INVALID_REQUEST, text))
        finally:
            if self._overdue is not None:
                self._overdue.cancel()
            self._pool.release(self._lease)

    async def _work(self, lease: Lease) -> None:
        """Send the request and hold the lease until its worker has let go of it."""
        self.worker_id = lease.worker_id
        opened = self._switchboard.open(lease.worker_id, self.id, self._mailbox)
        if not opened or not self._switchboard.send(lease.worker_id, self._request):
            text = "The model's process died before the request reached it. Try again."
            gone = Fault(FaultCode.WORKER_DIED, text, retryable=True)
            self._switchboard.fail_request(self.id, gone)
            self._mailbox.put(Failed(self.id, gone))
            return
        await self._mailbox.settled.wait()

    def _count_end(self, _: asyncio.Task[None]) -> None:
        if self.meter is not None:
            self.meter.on_end(self._finish())

    def _finish(self) -> str:
        """How it ended: a finish reason, or what kept it from one."""
        last = self._mailbox.last_word
        if isinstance(last, Finished) and last.reason is not FinishReason.ABORT:
            return last.reason.value
        if self._cause is not None:
            return self._cause
        return last.fault.code.value if isinstance(last, Failed) else FaultCode.CANCELLED.value

    def _on_overdue(self, lease: Lease) -> None:
        self._switchboard.catch_up()
        if not self._mailbox.settled.is_set():
            self._pool.report_stuck(
                lease, f"it did not end an aborted request in {self._abort_grace_s:.0f} s"
            )
