"""One worker's life, owned by one task: everybody else posts to it and is told what happened."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlxk import __version__
from mlxk.config.settings import Settings
from mlxk.supervisor.child import Child
from mlxk.supervisor.exits import death_fault, exit_report
from mlxk.supervisor.memory import process_bytes
from mlxk.supervisor.orders import LoadOrder, StopOrder, TrimOrder, WorkerEvent
from mlxk.supervisor.pulse import Pulse, Vitals
from mlxk.supervisor.states import ExitReport, StopStep, WorkerState, check_move
from mlxk.supervisor.worker_log import WorkerLog
from mlxk.workers.protocol import (
    PROTOCOL,
    Drain,
    Fault,
    FaultCode,
    FromWorker,
    Hello,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Ping,
    Pong,
    Shutdown,
    TrimCache,
    Trimmed,
)

if TYPE_CHECKING:
    from mlxk.supervisor.switchboard import Switchboard

log = logging.getLogger("mlxk.worker")

LAST_OUTPUT_S = 5.0
"""How long an ended process's report may wait for what it printed last. That is with us within milliseconds,
as the thread that reads it never waits for a disk; but any thread may have to wait for a core."""
PINGED_STATES = frozenset({WorkerState.WARM, WorkerState.LOADING, WorkerState.READY, WorkerState.DRAINING})


class _Idle:
    """The switchboard's word that the worker's last request has ended."""


@dataclass(frozen=True, slots=True)
class _Exited:
    status: int


_Post = LoadOrder | StopOrder | TrimOrder | _Idle | _Exited | FromWorker


class Worker:
    """A child process and its state. `run` is its owner task; `post` is the only way in."""

    def __init__(
        self,
        worker_id: str,
        child: Child,
        output: WorkerLog,
        switchboard: Switchboard,
        settings: Settings,
        tell: Callable[[WorkerEvent], None],
        release_output: Callable[[WorkerLog], asyncio.Future[None]],
    ) -> None:
        self.id = worker_id
        self.child = child
        self.vitals = Vitals(child.pid, time.monotonic())
        self._output = output
        self.belongs_to = output.belongs_to
        self._switchboard = switchboard
        self._settings = settings
        self._tell = tell
        self._release_output = release_output
        self._inbox: asyncio.Queue[_Post] = asyncio.Queue()
        self._state = WorkerState.STARTING
        self._step = StopStep.NONE
        self._stop: StopOrder | None = None
        self._deadline: float | None = time.monotonic() + settings.start_timeout_s
        """When the current state or stop step has taken too long."""
        self._pulse = Pulse(
            self.vitals, settings.pong_timeout_s, lambda: switchboard.send(worker_id, Ping(0))
        )
        self._loaded_bytes = -1
        """By the load's last word. The same word again is no progress."""
        switchboard.connect_worker(worker_id, self.post, lambda: self.post(_Idle()))

    def post(self, message: _Post) -> None:
        self._inbox.put_nowait(message)

    def configure(self, settings: Settings) -> None:
        """New limits of time (a reload): for what begins from now on."""
        self._settings = settings

    async def run(self) -> None:
        """Until the process has been reaped."""
        self.child.exited.add_done_callback(lambda done: self.post(_Exited(done.result())))
        while self._state is not WorkerState.EXITED:
            message = await self._next_message()
            if message is None:
                self._on_time()
            elif isinstance(message, _Exited):
                await self._take_last_output()
                self._on_exit(message.status)
            else:
                self._handle(message)

    async def _next_message(self) -> _Post | None:
        """The next message, or None when it is time for a ping or a deadline has passed."""
        if not self._inbox.empty():
            return self._inbox.get_nowait()
        wake = self._pulse.next_at if self._deadline is None else min(self._pulse.next_at, self._deadline)
        try:
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + max(0, wake - time.monotonic())
            ):
                return await self._inbox.get()
        except TimeoutError:
            return None

    # ------------------------------------------------------------------ messages

    def _handle(self, message: _Post) -> None:
        match message:
            case StopOrder():
                self._on_stop(message)
            case LoadOrder():
                self._on_load(message.spec)
            case Hello():
                self._on_hello(message)
            case LoadProgress():
                self._on_load_progress(message)
            case Loaded():
                if self._state is WorkerState.LOADING:
                    self._deadline = None
                    self.vitals.load_progress = None
                    self._move(WorkerState.READY, loaded=message)
            case LoadFailed():
                if self._state is WorkerState.LOADING:
                    grace_s = self._settings.stop_grace_s
                    self._begin_stopping(StopOrder(message.fault, 0, grace_s), failure=message.fault)
            case Pong():
                if (why := self._pulse.take(message)) is not None:
                    self._stuck(why)
            case _Idle():
                if self._state is WorkerState.DRAINING:
                    self._begin_stopping(self._stop)
            case TrimOrder():
                self._switchboard.send(self.id, TrimCache(message.max_bytes, message.memory_bytes))
            case Trimmed():
                self._tell(WorkerEvent(self.id, self._state, trimmed=message))
            case _:
                log.warning("%s sent an unexpected %s", self.id, type(message).__name__)

    def _on_hello(self, hello: Hello) -> None:
        if self._state is not WorkerState.STARTING:
            return
        if hello.protocol != PROTOCOL or hello.version != __version__:
            text = (
                f"The worker runs mlxk {hello.version} (protocol {hello.protocol}), the server {__version__} "
                f"(protocol {PROTOCOL}): mlxk was upgraded underneath it. Restart the server: mlxk restart"
            )
            log.error("%s", text)
            refusal = Fault(FaultCode.MODEL_LOAD_FAILED, text)
            self._begin_stopping(StopOrder(refusal, 0, self._settings.stop_grace_s), failure=refusal)
            return
        self._deadline = None
        self.vitals.working_set_bytes = hello.working_set_bytes
        self._move(WorkerState.WARM)

    def _on_load(self, spec: Load) -> None:
        if self._state is not WorkerState.WARM:
            log.error("%s was asked to load %s while %s", self.id, spec.name, self._state)
            return
        self.vitals.load_progress = 0.0
        self._loaded_bytes = -1
        self._deadline = time.monotonic() + self._settings.load_stall_s
        self._switchboard.send(self.id, spec)
        self._move(WorkerState.LOADING)

    def _on_load_progress(self, progress: LoadProgress) -> None:
        if self._state is WorkerState.LOADING:
            if progress.done_bytes > self._loaded_bytes:
                # A load is judged by its progress, not by its length: 100 GB take their time.
                self._loaded_bytes = progress.done_bytes
                self._deadline = time.monotonic() + self._settings.load_stall_s
            self.vitals.load_progress = progress.done_bytes / max(1, progress.total_bytes)
            self._tell(WorkerEvent(self.id, self._state, progress=progress))

    async def _take_last_output(self) -> None:
        """Its last words are on their way through the pump's thread; they are what explains a crash."""
        await asyncio.wait([self._release_output(self._output)], timeout=LAST_OUTPUT_S)

    def _on_exit(self, status: int) -> None:
        report = exit_report(status, self._step, self._output.tail(), self._switchboard.in_flight(self.id))
        reason = self._stop.reason if self._stop else death_fault(report)
        self._switchboard.disconnect_worker(self.id, reason)
        self._move(WorkerState.EXITED, exit=report)

    # ---------------------------------------------------------------------- time

    def _on_time(self) -> None:
        self._switchboard.catch_up()
        if not self._inbox.empty():
            return  # first what it has said, then whether it took too long to
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            self._on_deadline()
        if self._pulse.is_due(now) and self._state in PINGED_STATES:
            why = self._pulse.beat(self._settings.pong_timeout_s)
            if why is not None:
                self._stuck(why)

    async def refresh(self, timeout_s: float) -> None:
        """Ask for fresh vitals and wait for them; at most `timeout_s`, as the process may be stuck."""
        await self._pulse.refresh(timeout_s)

    def _on_deadline(self) -> None:
        if self._state is WorkerState.STARTING:
            self._stuck(f"it did not start within {self._settings.start_timeout_s:.0f} s")
        elif self._state is WorkerState.LOADING:
            self._stuck(f"its load made no progress for {self._settings.load_stall_s:.0f} s")
        elif self._state is WorkerState.DRAINING:
            self._begin_stopping(self._stop)
        elif self._state is WorkerState.STOPPING:
            self._climb()

    def _stuck(self, why: str) -> None:
        log.error("%s (pid %d) is stuck: %s; it is killed", self.id, self.child.pid, why)
        text = f"The model's process was stuck ({why}) and has been ended. Try again."
        self._on_stop(StopOrder(Fault(FaultCode.WORKER_DIED, text, retryable=True), 0, 0, kill=True))

    # ---------------------------------------------------------------------- stop

    def _on_stop(self, order: StopOrder) -> None:
        """Idempotent. A second order can only make a stop faster."""
        if self._state is WorkerState.EXITED:
            return
        if self._state is WorkerState.STOPPING:
            self._hasten(order)
            return
        busy = self._switchboard.in_flight(self.id) > 0
        if self._state is WorkerState.READY and busy and order.drain_s > 0 and not order.kill:
            self._stop = order
            self._deadline = time.monotonic() + order.drain_s
            self._switchboard.send(self.id, Drain())
            self._move(WorkerState.DRAINING)
        elif self._state is WorkerState.DRAINING and order.drain_s > 0 and not order.kill:
            self._stop = order
            self._deadline = min(self._deadline or 0, time.monotonic() + order.drain_s)
        else:
            self._begin_stopping(order)

    def _begin_stopping(self, order: StopOrder | None, *, failure: Fault | None = None) -> None:
        assert order is not None
        self._stop = order
        if order.kill:
            failure = order.reason
        # Its clients get their last word now, from us: the worker's own could come too late or never.
        self._switchboard.fail_requests(self.id, order.reason)
        connected = self._state is not WorkerState.STARTING
        self._move(WorkerState.STOPPING, failure=failure)
        if order.kill:
            self._kill()
        elif connected and self._switchboard.send(self.id, Shutdown()):
            self._step = StopStep.ASKED
            self._deadline = time.monotonic() + order.grace_s
        else:
            self._climb()

    def _climb(self) -> None:
        """The next step of the ladder."""
        grace_s = self._stop.grace_s if self._stop else 0.0
        if self._step in (StopStep.NONE, StopStep.ASKED):
            self._step = StopStep.TERMED
            self._deadline = time.monotonic() + grace_s
            self.child.signal_group(signal.SIGTERM)
        else:
            self._kill()

    def _kill(self) -> None:
        self._step = StopStep.KILLED
        self._deadline = None
        self.child.signal_group(signal.SIGKILL)

    def _hasten(self, order: StopOrder) -> None:
        if order.kill:
            self._kill()
        elif self._deadline is not None and self._stop is not None:
            self._deadline = min(self._deadline, time.monotonic() + order.grace_s)
            self._stop = replace(self._stop, grace_s=min(self._stop.grace_s, order.grace_s))

    def _move(
        self,
        target: WorkerState,
        *,
        loaded: Loaded | None = None,
        failure: Fault | None = None,
        exit: ExitReport | None = None,
    ) -> None:
        check_move(self._state, target)
        log.debug("%s: %s -> %s", self.id, self._state, target)
        self._state = target
        held_bytes = process_bytes(self.child.pid) if target is WorkerState.STOPPING else 0
        self._tell(WorkerEvent(self.id, target, loaded, failure, exit, held_bytes=held_bytes))
