"""With the real engine: an abort takes effect within one step, and a busy worker ends when it is told to.

Counted in the worker's own steps, not in seconds: an abort and a ping travel in one frame, so the pong says
how many steps had been made when the abort was there.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zmq

from mlxk.config.settings import Settings
from mlxk.store.builtin import builtin_path
from mlxk.supervisor.crew import Crew
from mlxk.supervisor.mailbox import Mailbox
from mlxk.supervisor.orders import LoadOrder, StopOrder, WorkerEvent
from mlxk.supervisor.run_dir import make_run_dir
from mlxk.supervisor.states import StopStep, WorkerState
from mlxk.supervisor.switchboard import Switchboard
from mlxk.supervisor.worker import Worker
from mlxk.workers.protocol import (
    Abort,
    Delta,
    Failed,
    Fault,
    FaultCode,
    Finished,
    FinishReason,
    FromWorker,
    Generate,
    Load,
    Ping,
    Pong,
    Progress,
    RequestEvent,
    WorkerStats,
)
from tests.server import is_alive
from tests.unit.supervisor.aio import in_loop

STOPPED = Fault(FaultCode.MODEL_STOPPED, "stopped")
ENDLESS = Generate("r", prompt="One, two", max_tokens=100_000, ignore_eos=True)
LONG_PROMPT = Generate("r", tokens=[5] * 1500, max_tokens=100_000, ignore_eos=True)
"""Also endless: it must not end before a test that had to wait for a core has aborted it."""
ONE_STEP = 1
OUR_PING = 7
"""Those of the worker's task have another number."""


class Stage:
    """One real worker with `tiny`."""

    def __init__(self, crew: Crew, switchboard: Switchboard, tell: asyncio.Queue[WorkerEvent]) -> None:
        self.switchboard = switchboard
        self.events = tell
        self.worker: Worker = crew.hire(tell.put_nowait)
        self.mailbox = Mailbox()
        self._pongs: asyncio.Queue[Pong] = asyncio.Queue()
        line = switchboard._lines[self.worker.id]
        to_worker = line.on_message

        def on_message(message: FromWorker) -> None:
            if isinstance(message, Pong) and message.seq == OUR_PING:
                self._pongs.put_nowait(message)
            to_worker(message)

        line.on_message = on_message

    async def until(self, state: WorkerState) -> WorkerEvent:
        while True:
            event = await self.events.get()
            assert event.failure is None, event.failure
            if event.state is state:
                return event

    async def load(self, **options: object) -> None:
        await self.until(WorkerState.WARM)
        spec = Load("tiny", str(builtin_path()), 1 << 20, options=dict(options))
        self.worker.post(LoadOrder(spec))
        await self.until(WorkerState.READY)

    def send(self, request: Generate) -> None:
        assert self.switchboard.open(self.worker.id, request.id, self.mailbox)
        assert self.switchboard.send(self.worker.id, request)

    async def events_until(self, kind: type) -> list[RequestEvent]:
        seen: list[RequestEvent] = []
        while not any(isinstance(event, kind) for event in seen):
            seen += await self.mailbox.take()
        return seen

    async def stats(self, *before: Abort) -> WorkerStats:
        """The engine's counters now, when `before` is in its hands."""
        assert self.switchboard.send(self.worker.id, *before, Ping(OUR_PING))
        return (await self._pongs.get()).stats


@contextlib.asynccontextmanager
async def on_stage(log_dir: Path) -> AsyncIterator[Stage]:
    run_dir = make_run_dir()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    switchboard = Switchboard(context, f"ipc://{run_dir}/s")
    crew = Crew(Settings(engine="mlx"), switchboard, f"ipc://{run_dir}/s", log_dir)
    try:
        yield Stage(crew, switchboard, asyncio.Queue())
    finally:
        crew.kill_all()
        await crew.gone(10)
        switchboard.close()
        crew.close()
        context.term()
        shutil.rmtree(run_dir)


@pytest.mark.parametrize(
    ("request_", "stage_seen"), [(ENDLESS, Delta), (LONG_PROMPT, Progress)], ids=["decode", "prefill"]
)
@in_loop
async def test_an_abort_takes_effect_within_one_step(
    tmp_path: Path, request_: Generate, stage_seen: type
) -> None:
    async with on_stage(tmp_path) as stage:
        await stage.load(prefill_chunk=64)
        stage.send(request_)
        await stage.events_until(stage_seen)
        at_the_abort = await stage.stats(Abort("r"))
        *_, last = await stage.events_until(Finished)
        assert isinstance(last, Finished)
        assert last.reason is FinishReason.ABORT
        after = await stage.stats()
        assert after.steps - at_the_abort.steps <= ONE_STEP
        assert after.in_flight == 0


@in_loop
async def test_a_busy_real_worker_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    """By the first step of the ladder: it needs no signal."""
    async with on_stage(tmp_path) as stage:
        await stage.load()
        stage.send(ENDLESS)
        await stage.events_until(Delta)
        stage.worker.post(StopOrder(STOPPED, 0, 20))
        *_, last = await stage.events_until(Failed)
        assert isinstance(last, Failed)
        assert last.fault == STOPPED
        exit = (await stage.until(WorkerState.EXITED)).exit
        assert exit is not None
        assert (exit.code, exit.step) == (0, StopStep.ASKED)
        assert not is_alive(stage.worker.child.pid)
