"""What is written down of a worker's end, and what of its events goes on to the pool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxk.config.crash_file import read_crash
from mlxk.supervisor.log_shelf import LogShelf
from mlxk.supervisor.obituary import Obituary
from mlxk.supervisor.orders import WorkerEvent
from mlxk.supervisor.states import ExitReport, StopStep, WorkerState
from mlxk.supervisor.worker_log import WorkerLog
from mlxk.workers.protocol import Fault, FaultCode, LoadProgress


class Scene:
    def __init__(self, folder: Path, model: str | None = "m") -> None:
        self.shelf = LogShelf(folder)
        self.told: list[WorkerEvent] = []
        output = WorkerLog("w7", 4711, -1)
        if model:
            output.belongs_to(model)
        output.write(b"its last words\n", self.shelf)
        self.obituary = Obituary("w7", 4711, output, self.shelf, self.told.append)

    def tell(self, state: WorkerState, **facts: object) -> None:
        self.obituary.take(WorkerEvent("w7", state, **facts))  # type: ignore[arg-type]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.shelf.close()


def test_a_crash_is_noted_with_what_ran_and_the_last_lines(scene: Scene) -> None:
    scene.tell(WorkerState.READY)
    scene.tell(WorkerState.EXITED, exit=ExitReport(None, 9, StopStep.NONE, (), n_requests=3))
    assert scene.shelf.flush(10)
    crash = read_crash(scene.shelf.folder, "m")
    assert crash is not None
    assert (crash["worker"], crash["pid"], crash["state"], crash["requests"]) == ("w7", 4711, "ready", 3)
    assert crash["exit"] == {"code": None, "signal": 9, "step": "none"}
    assert "memory ran out" in crash["reason"]
    assert crash["lines"] == ["its last words"]
    assert crash["ended_at"].endswith("Z")


def test_a_stop_that_was_asked_for_is_no_crash(scene: Scene) -> None:
    scene.tell(WorkerState.STOPPING)
    scene.tell(WorkerState.EXITED, exit=ExitReport(None, 9, StopStep.KILLED))
    assert scene.shelf.flush(10)
    assert read_crash(scene.shelf.folder, "m") is None


def test_a_worker_that_was_ended_because_it_failed_has_crashed(scene: Scene) -> None:
    failure = Fault(FaultCode.MODEL_LOAD_FAILED, "It does not fit.")
    scene.tell(WorkerState.LOADING)
    scene.tell(WorkerState.STOPPING, failure=failure)
    scene.tell(WorkerState.EXITED, exit=ExitReport(0, None, StopStep.ASKED))
    assert scene.shelf.flush(10)
    crash = read_crash(scene.shelf.folder, "m")
    assert crash is not None
    assert (crash["reason"], crash["state"]) == ("It does not fit.", "loading")


def test_of_a_loads_progress_only_what_people_can_read_goes_on(scene: Scene) -> None:
    for done in range(1001):
        scene.tell(WorkerState.LOADING, progress=LoadProgress(done, 1000))
    told = [event.progress.done_bytes for event in scene.told if event.progress]
    assert told[0] == 0
    assert told[-1] == 1000
    assert len(told) < 20


def test_every_other_event_goes_on(scene: Scene) -> None:
    states = [WorkerState.WARM, WorkerState.LOADING, WorkerState.READY, WorkerState.STOPPING]
    for state in states:
        scene.tell(state)
    assert [event.state for event in scene.told] == states
