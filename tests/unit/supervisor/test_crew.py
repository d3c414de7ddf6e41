"""Real workers with the fake engine, hired and let go."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from mlxk.config.settings import Settings
from mlxk.supervisor.crew import Crew
from mlxk.supervisor.orders import StopOrder, WorkerEvent
from mlxk.supervisor.run_dir import make_run_dir
from mlxk.supervisor.states import StopStep, WorkerState
from mlxk.supervisor.switchboard import Switchboard
from mlxk.supervisor.worker import Worker
from mlxk.supervisor.worker_log import LogPump, WorkerLog
from mlxk.workers.protocol import Fault, FaultCode
from tests.server import is_alive, wait_gone
from tests.unit.supervisor.aio import in_loop

STOPPED = Fault(FaultCode.MODEL_STOPPED, "stopped")


class Stage:
    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.events: asyncio.Queue[WorkerEvent] = asyncio.Queue()
        self.seen: list[WorkerEvent] = []

    def hire(self) -> Worker:
        return self.crew.hire(self.events.put_nowait)

    async def until(self, worker: Worker, state: WorkerState) -> WorkerEvent:
        while True:
            for event in self.seen:
                if event.worker_id == worker.id and event.state is state:
                    return event
            self.seen.append(await self.events.get())


@contextlib.asynccontextmanager
async def on_stage(log_dir: Path) -> AsyncIterator[Stage]:
    run_dir = make_run_dir()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    address = f"ipc://{run_dir}/s"
    switchboard = Switchboard(context, address)
    crew = Crew(Settings(engine="fake"), switchboard, address, log_dir)
    try:
        yield Stage(crew)
    finally:
        crew.kill_all()
        assert await crew.gone(10)
        switchboard.close()
        crew.close()
        context.term()
        shutil.rmtree(run_dir)


@in_loop
async def test_a_hired_worker_says_hello_and_ends_when_asked(tmp_path: Path) -> None:
    async with on_stage(tmp_path) as stage:
        worker = stage.hire()
        await stage.until(worker, WorkerState.WARM)
        stage.crew.stop_all(StopOrder(STOPPED, 0, 10))
        event = await stage.until(worker, WorkerState.EXITED)
        assert event.exit is not None
        assert (event.exit.code, event.exit.step) == (0, StopStep.ASKED)
        assert await stage.crew.gone(5)
        assert stage.crew.workers == {}


@in_loop
async def test_an_output_that_is_read_late_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that reads it may have to wait for a core, and the worker's task waits for the thread."""
    drop = LogPump.drop

    def late(pump: LogPump, output: WorkerLog) -> asyncio.Future[None]:
        async def wait() -> None:
            await asyncio.sleep(1.2)
            await drop(pump, output)

        return asyncio.ensure_future(wait())

    monkeypatch.setattr(LogPump, "drop", late)
    async with on_stage(tmp_path) as stage:
        stage.hire()
        stage.crew.kill_all()
        assert await stage.crew.gone(5)


@in_loop
async def test_no_two_workers_ever_have_the_same_id(tmp_path: Path) -> None:
    async with on_stage(tmp_path) as stage:
        first = stage.hire()
        first.child.signal_group(9)
        await stage.until(first, WorkerState.EXITED)
        assert stage.hire().id != first.id


@in_loop
async def test_a_bug_in_a_workers_task_is_told_as_its_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(self: Worker, message: Any) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(Worker, "_handle", break_down)
    async with on_stage(tmp_path) as stage:
        worker = stage.hire()  # its Hello meets the bug
        event = await stage.until(worker, WorkerState.EXITED)
        assert event.exit is not None
        assert event.exit.signal == 9
        assert not is_alive(worker.child.pid)
        assert await stage.crew.gone(5)


@in_loop
async def test_the_end_of_the_lifeline_ends_every_worker(tmp_path: Path) -> None:
    async with on_stage(tmp_path) as stage:
        workers = [stage.hire() for _ in range(3)]
        for worker in workers:
            await stage.until(worker, WorkerState.WARM)
        stage.crew.close()
        assert await asyncio.to_thread(wait_gone, [worker.child.pid for worker in workers], 5) == []


@in_loop
async def test_what_a_dying_worker_printed_is_in_its_report_and_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXK_FAKE_START", '{"die": 3}')
    async with on_stage(tmp_path) as stage:
        worker = stage.hire()
        event = await stage.until(worker, WorkerState.EXITED)
        assert event.exit is not None
        assert event.exit.code == 3
        assert event.exit.log_tail == ("fake engine: dying at start",)
    assert "dying at start" in (tmp_path / "spare.log").read_text()
