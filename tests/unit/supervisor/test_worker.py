"""One worker's life with a fake process: the moves, the stop ladder, liveness, the last words."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

from mlxk import __version__
from mlxk.config.settings import Settings
from mlxk.supervisor.orders import LoadOrder, StopOrder, WorkerEvent
from mlxk.supervisor.pulse import ENGINE_STALL_S
from mlxk.supervisor.states import StopStep, WorkerState
from mlxk.supervisor.worker import Worker
from mlxk.workers.protocol import (
    PROTOCOL,
    Drain,
    Fault,
    FaultCode,
    Hello,
    Load,
    LoadFailed,
    LoadProgress,
    Ping,
    Pong,
    Shutdown,
    WorkerStats,
)
from tests.unit.supervisor.aio import in_loop, turns
from tests.unit.supervisor.fakes import LOADED, FakeChild, FakeOutput, FakeSwitchboard

SIGTERM, SIGKILL = 15, 9
STOPPED = Fault(FaultCode.MODEL_STOPPED, "stopped")
PATIENT = Settings(start_timeout_s=60, stop_grace_s=60, load_stall_s=60, pong_timeout_s=60)
HELLO = Hello(PROTOCOL, __version__, 1, "fake")
SPEC = Load("m", "/m", 0)


def stop(*, drain_s: float = 0, grace_s: float = 60, kill: bool = False) -> StopOrder:
    return StopOrder(STOPPED, drain_s, grace_s, kill)


class Stage:
    """A worker's task with everything around it fake."""

    def __init__(self, settings: Settings) -> None:
        self.child = FakeChild()
        self.output = FakeOutput()
        self.switchboard = FakeSwitchboard()
        self.events: asyncio.Queue[WorkerEvent] = asyncio.Queue()
        self.worker = Worker(
            "w1",
            cast(Any, self.child),
            cast(Any, self.output),
            cast(Any, self.switchboard),
            settings,
            self.events.put_nowait,
            lambda output: self.output.released,
        )
        self.task = asyncio.create_task(self.worker.run())

    def post(self, *messages: Any) -> None:
        for message in messages:
            self.worker.post(message)

    async def until(self, state: WorkerState) -> WorkerEvent:
        while True:
            coming = asyncio.ensure_future(self.events.get())
            await asyncio.wait([coming, self.task], return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                self.task.result()  # raises what ended it too early
                raise AssertionError(f"it ended without having been {state}")
            if (event := coming.result()).state is state:
                return event

    async def until_ready(self) -> None:
        self.post(HELLO, LoadOrder(SPEC), LOADED)
        await self.until(WorkerState.READY)

    async def until_sent(self, kind: type) -> None:
        while not any(isinstance(message, kind) for message in self.switchboard.sent):
            self.switchboard.sent_something.clear()
            await self.switchboard.sent_something.wait()

    async def until_exited(self) -> WorkerEvent:
        event = await self.until(WorkerState.EXITED)
        await self.task
        return event


@contextlib.asynccontextmanager
async def on_stage(settings: Settings = PATIENT, **changes: Any) -> AsyncIterator[Stage]:
    stage = Stage(replace(settings, **changes))
    try:
        yield stage
    finally:
        with contextlib.suppress(asyncio.InvalidStateError):
            stage.output.release()
        stage.child.exit(SIGKILL)
        await stage.task


@in_loop
async def test_a_worker_loads_when_ordered_and_becomes_ready() -> None:
    async with on_stage() as stage:
        stage.post(HELLO)
        await stage.until(WorkerState.WARM)
        stage.post(LoadOrder(SPEC))
        await stage.until(WorkerState.LOADING)
        assert stage.switchboard.sent == [SPEC]
        stage.post(LoadProgress(1, 4))
        await turns()
        assert stage.worker.vitals.load_progress == 0.25
        stage.post(LOADED)
        assert (await stage.until(WorkerState.READY)).loaded == LOADED


@in_loop
async def test_a_worker_of_another_version_is_refused_with_what_to_do() -> None:
    async with on_stage() as stage:
        stage.post(Hello(PROTOCOL, "0.0.0", 1, "fake"))
        event = await stage.until(WorkerState.STOPPING)
        assert event.failure is not None
        assert "mlxk restart" in event.failure.message
        assert "0.0.0" in event.failure.message


@in_loop
async def test_a_load_that_failed_ends_the_worker_and_says_why() -> None:
    broken = Fault(FaultCode.MODEL_LOAD_FAILED, "no such tensor")
    async with on_stage() as stage:
        stage.post(HELLO, LoadOrder(SPEC), LoadFailed(broken))
        assert (await stage.until(WorkerState.STOPPING)).failure == broken
        assert stage.switchboard.sent[-1] == Shutdown()


@in_loop
async def test_an_idle_worker_is_asked_to_end() -> None:
    async with on_stage() as stage:
        await stage.until_ready()
        stage.post(stop(drain_s=30))
        await stage.until(WorkerState.STOPPING)
        assert stage.switchboard.sent[-1] == Shutdown()
        assert stage.child.signals == []
        stage.child.exit(0)
        stage.output.release()
        exit = (await stage.until_exited()).exit
        assert exit is not None
        assert (exit.code, exit.step, exit.wanted) == (0, StopStep.ASKED, True)


@in_loop
async def test_a_busy_worker_drains_and_ends_when_its_last_request_has() -> None:
    async with on_stage() as stage:
        await stage.until_ready()
        stage.switchboard.busy = 1
        stage.post(stop(drain_s=60))
        await stage.until(WorkerState.DRAINING)
        assert stage.switchboard.sent[-1] == Drain()
        stage.switchboard.busy = 0
        stage.switchboard.on_idle()
        await stage.until(WorkerState.STOPPING)


@in_loop
async def test_a_drain_ends_at_its_deadline_and_tells_the_clients() -> None:
    async with on_stage() as stage:
        await stage.until_ready()
        stage.switchboard.busy = 1
        stage.post(stop(drain_s=0.01))
        await stage.until(WorkerState.STOPPING)
        assert stage.switchboard.failed == [STOPPED]


@in_loop
async def test_a_second_stop_makes_a_drain_end_sooner_never_later() -> None:
    async with on_stage() as stage:
        await stage.until_ready()
        stage.switchboard.busy = 1
        stage.post(stop(drain_s=0.05), stop(drain_s=60))
        await stage.until(WorkerState.STOPPING)


@in_loop
async def test_stop_now_does_not_wait_for_the_drain() -> None:
    async with on_stage() as stage:
        await stage.until_ready()
        stage.switchboard.busy = 1
        stage.post(stop(drain_s=60))
        await stage.until(WorkerState.DRAINING)
        stage.post(stop(drain_s=0))
        await stage.until(WorkerState.STOPPING)


@in_loop
async def test_the_ladder_goes_from_asking_over_sigterm_to_sigkill() -> None:
    async with on_stage() as stage:
        await stage.until_ready()
        stage.post(stop(grace_s=0.02))
        stage.output.release()
        exit = (await stage.until_exited()).exit
        assert stage.switchboard.sent[-1] == Shutdown()
        assert stage.child.signals == [SIGTERM, SIGKILL]
        assert exit is not None
        assert exit.step is StopStep.KILLED


@in_loop
async def test_a_sigterm_gets_its_whole_grace() -> None:
    async with on_stage() as stage:
        stage.switchboard.connected = False
        stage.post(HELLO, stop(grace_s=60))
        await stage.until(WorkerState.STOPPING)
        await turns()
        assert stage.child.signals == [SIGTERM]


@in_loop
async def test_a_hastier_order_shortens_every_step_that_is_left() -> None:
    async with on_stage() as stage:
        await stage.until_ready()
        stage.post(stop(grace_s=60))
        await stage.until(WorkerState.STOPPING)
        stage.post(stop(grace_s=0.01))
        stage.output.release()
        await stage.until_exited()
        assert stage.child.signals == [SIGTERM, SIGKILL]


@in_loop
async def test_a_worker_that_is_still_starting_is_not_asked_but_signalled() -> None:
    async with on_stage() as stage:
        stage.post(stop())
        await stage.until(WorkerState.STOPPING)
        assert stage.child.signals == [SIGTERM]
        assert stage.switchboard.sent == []


@in_loop
async def test_a_stuck_worker_is_killed_at_once_and_its_clients_told() -> None:
    async with on_stage() as stage:
        await stage.until_ready()
        stage.post(stop(kill=True))
        event = await stage.until(WorkerState.STOPPING)
        assert event.failure == STOPPED
        assert stage.child.signals == [SIGKILL]
        assert stage.switchboard.failed == [STOPPED]


@in_loop
async def test_a_stuck_worker_that_is_stopping_already_is_killed_too() -> None:
    async with on_stage() as stage:
        await stage.until_ready()
        stage.post(stop(), stop(kill=True))
        stage.output.release()
        await stage.until_exited()
        assert stage.child.signals == [SIGKILL]


@in_loop
async def test_a_start_that_hangs_ends_the_worker() -> None:
    async with on_stage(start_timeout_s=0.02) as stage:
        event = await stage.until(WorkerState.STOPPING)
        assert event.failure is not None
        assert "did not start" in event.failure.message
        assert stage.child.signals == [SIGKILL]


@in_loop
async def test_a_load_without_progress_ends_the_worker() -> None:
    async with on_stage(load_stall_s=0.02) as stage:
        stage.post(HELLO, LoadOrder(SPEC))
        event = await stage.until(WorkerState.STOPPING)
        assert event.failure is not None
        assert "no progress" in event.failure.message


@in_loop
async def test_the_same_word_again_is_no_progress() -> None:
    async with on_stage(load_stall_s=0.2) as stage:
        stage.post(HELLO, LoadOrder(SPEC))

        async def repeat() -> None:
            while True:
                stage.post(LoadProgress(7, 100))
                await asyncio.sleep(0.02)

        repeating = asyncio.create_task(repeat())
        event = await stage.until(WorkerState.STOPPING)
        repeating.cancel()
        assert event.failure is not None
        assert "no progress" in event.failure.message


@in_loop
async def test_a_long_load_with_progress_goes_on() -> None:
    async with on_stage(load_stall_s=0.3) as stage:
        stage.post(HELLO, LoadOrder(SPEC))
        for step in range(8):
            stage.post(LoadProgress(step, 100))
            await asyncio.sleep(0.05)  # longer in all than a stall may be
        stage.post(LOADED)
        await stage.until(WorkerState.READY)


@in_loop
async def test_a_silent_worker_is_killed_after_several_pings() -> None:
    async with on_stage(pong_timeout_s=0.04) as stage:
        await stage.until_ready()
        event = await stage.until(WorkerState.STOPPING)
        assert event.failure is not None
        assert "not answered" in event.failure.message
        assert stage.switchboard.sent.count(Ping(0)) >= 3


@in_loop
async def test_a_worker_that_answers_lives_on() -> None:
    async with on_stage(pong_timeout_s=0.2) as stage:
        await stage.until_ready()
        for _ in range(10):
            stage.switchboard.sent.clear()
            await stage.until_sent(Ping)
            stage.post(Pong(0, WorkerStats(steps=1)))
        assert stage.worker.vitals.stats.steps == 1
        assert stage.child.signals == []


@in_loop
async def test_a_front_that_was_stopped_itself_does_not_take_the_silence_for_its_workers() -> None:
    async with on_stage(pong_timeout_s=0.4) as stage:
        await stage.until_ready()
        await stage.until_sent(Ping)
        time.sleep(0.5)  # noqa: ASYNC251  # the loop stands still, as under a debugger or in a laptop's sleep
        await turns()
        stage.post(Pong(0, WorkerStats()))
        await turns()
        assert stage.child.signals == []


@in_loop
async def test_a_step_that_takes_far_too_long_with_requests_in_flight_is_a_stuck_engine() -> None:
    async with on_stage() as stage:
        await stage.until_ready()
        stage.post(Pong(0, WorkerStats(in_flight=0, step_age_s=ENGINE_STALL_S + 1)))
        stage.post(Pong(0, WorkerStats(in_flight=1, step_age_s=ENGINE_STALL_S - 1)))
        await turns()
        assert stage.child.signals == []
        stage.post(Pong(0, WorkerStats(in_flight=1, step_age_s=ENGINE_STALL_S + 1)))
        event = await stage.until(WorkerState.STOPPING)
        assert event.failure is not None
        assert "one step" in event.failure.message


@in_loop
async def test_a_death_is_told_with_the_last_words_that_were_still_on_their_way() -> None:
    async with on_stage() as stage:
        await stage.until_ready()
        stage.child.exit(11)
        await turns()
        assert stage.events.empty()  # the pump has not read everything yet
        stage.output.release(("Segmentation fault",))
        exit = (await stage.until_exited()).exit
        assert exit is not None
        assert exit.log_tail == ("Segmentation fault",)
        assert not exit.wanted
        assert stage.switchboard.failed[0].code is FaultCode.WORKER_DIED


@in_loop
async def test_an_output_that_never_ends_does_not_hold_up_the_news_of_a_death() -> None:
    async with on_stage() as stage:
        stage.child.exit(0)
        await stage.until_exited()  # without a release


@in_loop
async def test_late_messages_of_a_stopping_worker_change_nothing() -> None:
    async with on_stage() as stage:
        stage.post(HELLO, LoadOrder(SPEC))
        await stage.until(WorkerState.LOADING)
        stage.post(stop(), LOADED, HELLO, LoadFailed(STOPPED), LoadProgress(1, 2), LoadOrder(SPEC))
        event = await stage.until(WorkerState.STOPPING)
        await turns()
        assert event.failure is None
        assert stage.events.empty()
