"""A front that stood still for a while (no core, a debugger): what came in time is no silence. With the loop
and the sockets of the product, as it is their order that matters: uvloop's timers run before it reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

import uvloop

from mlxk.config.settings import Settings
from mlxk.store.catalog import ModelRef
from mlxk.supervisor.job import Job
from mlxk.supervisor.meters import Meters
from mlxk.supervisor.orders import LoadOrder, WorkerEvent
from mlxk.supervisor.records import Lease
from mlxk.supervisor.states import WorkerState
from mlxk.supervisor.worker import Worker
from mlxk.workers.protocol import (
    Abort,
    Detokenize,
    Failed,
    Fault,
    FaultCode,
    Load,
    LoadProgress,
)
from tests.unit.supervisor.aio import turns
from tests.unit.supervisor.fakes import LOADED, FakeChild, FakeOutput
from tests.unit.supervisor.test_switchboard import Board, Peer, make_board
from tests.unit.supervisor.test_worker import HELLO

LIMIT_S = 0.1
LONGER_S = 3 * LIMIT_S


def in_uvloop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await test()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(bounded())

    return run


def stand_still_while_it_says(peer: Peer, *messages: Any) -> None:
    peer.say(*messages)
    time.sleep(LONGER_S)


class Watched:
    """A worker's task at a real switchboard."""

    def __init__(self, board: Board, **limits: float) -> None:
        self.states: list[WorkerState] = []
        self.changed = asyncio.Event()
        self.child = FakeChild()
        self.output = FakeOutput()
        self.worker = Worker(
            "w1",
            cast(Any, self.child),
            cast(Any, self.output),
            board.switchboard,
            Settings(**{"stop_grace_s": 60, "pong_timeout_s": 60, **limits}),  # type: ignore[arg-type]
            self._take,
            lambda output: self.output.released,
        )
        self.peer = board.dial("w1")
        self.task = asyncio.create_task(self.worker.run())

    def _take(self, event: WorkerEvent) -> None:
        self.states.append(event.state)
        self.changed.set()

    async def until(self, state: WorkerState) -> None:
        while state not in self.states:
            assert WorkerState.STOPPING not in self.states, "it was taken for stuck"
            self.changed.clear()
            await self.changed.wait()

    async def end(self) -> None:
        self.output.release()
        self.child.exit(9)
        await self.task


@in_uvloop
async def test_a_worker_that_started_in_time_is_not_given_up() -> None:
    async with make_board() as board:
        watched = Watched(board, start_timeout_s=LIMIT_S)
        await turns()
        stand_still_while_it_says(watched.peer, HELLO)
        await watched.until(WorkerState.WARM)
        await watched.end()


@in_uvloop
async def test_a_load_that_got_on_in_time_is_not_given_up() -> None:
    async with make_board() as board:
        watched = Watched(board, start_timeout_s=60, load_stall_s=LIMIT_S)
        watched.peer.say(HELLO)
        await watched.until(WorkerState.WARM)
        watched.worker.post(LoadOrder(Load("m", "/m", 0)))
        await watched.until(WorkerState.LOADING)
        stand_still_while_it_says(watched.peer, LoadProgress(1, 4), LOADED)
        await watched.until(WorkerState.READY)
        await watched.end()


class FakePool:
    def __init__(self) -> None:
        self.stuck: list[str] = []
        self.released = asyncio.Event()

    async def acquire(self, ref: ModelRef, keep_alive_s: float | None, *, is_brief: bool) -> Lease:
        return Lease(ref.name, "w1", is_brief)

    def release(self, lease: Lease) -> None:
        self.released.set()

    def report_stuck(self, lease: Lease, why: str) -> None:
        self.stuck.append(why)


@in_uvloop
async def test_an_abort_that_was_acknowledged_in_time_ends_nobody() -> None:
    async with make_board() as board:
        peer, pool = await board.worker("w1"), FakePool()
        job = Job(
            cast(Any, type("Ref", (), {"name": "m"})),
            Detokenize("r1", [1]),
            cast(Any, pool),
            board.switchboard,
            keep_alive_s=None,
            abort_grace_s=LIMIT_S,
            meters=Meters(),
        )
        while job.worker_id is None:  # noqa: ASYNC110  # it runs until it waits for its worker
            await asyncio.sleep(0)
        job.close()
        heard = [*peer.hear(), *peer.hear()]
        assert Abort("r1") in heard
        gone = Fault(FaultCode.CANCELLED, "aborted", retryable=True)
        stand_still_while_it_says(peer, Failed("r1", gone))
        await pool.released.wait()
        assert pool.stuck == []
