"""Stand-ins for what surrounds a worker's task and the pool's: they keep what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlxk.store.catalog import ModelRef, Source
from mlxk.supervisor.orders import LoadOrder, StopOrder, WorkerEvent
from mlxk.supervisor.states import ExitReport, StopStep, WorkerState
from mlxk.workers.protocol import Capabilities, Fault, Load, Loaded, WorkerStats

LOADED = Loaded(4096, 1000, 1000, 0.1, Capabilities())
KILLED = ExitReport(None, 9, StopStep.NONE, ("last line",))


def ref(name: str, size: int = 1000) -> ModelRef:
    return ModelRef(name, Path(f"/models/{name}"), None, Source.LOCAL, size, 0.0)


class FakeChild:
    """A process that ends when the test says so, or by SIGKILL."""

    pid = 4_000_000

    def __init__(self) -> None:
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.signals: list[int] = []

    def signal_group(self, number: int) -> bool:
        self.signals.append(number)
        if number == 9:
            self.exit(9)
        return True

    def exit(self, status: int) -> None:
        if not self.exited.done():
            self.exited.set_result(status)


class FakeSwitchboard:
    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.failed: list[Fault] = []
        self.busy = 0
        self.connected = True
        self.sent_something = asyncio.Event()

    def connect_worker(self, worker_id: str, on_message: object, on_idle: Callable[[], None]) -> None:
        self.on_idle = on_idle

    def disconnect_worker(self, worker_id: str, reason: Fault) -> None:
        self.failed.append(reason)

    def fail_requests(self, worker_id: str, reason: Fault) -> None:
        self.failed.append(reason)
        self.busy = 0

    def catch_up(self) -> None:
        pass

    def in_flight(self, worker_id: str) -> int:
        return self.busy

    def send(self, worker_id: str, *messages: Any) -> bool:
        self.sent += messages if self.connected else ()
        self.sent_something.set()
        return self.connected


class FakeOutput:
    """A WorkerLog whose tail is complete only once it has been released."""

    def __init__(self) -> None:
        self.released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lines: tuple[str, ...] = ()

    def belongs_to(self, model: str) -> None:
        pass

    def tail(self) -> tuple[str, ...]:
        return self.lines

    def release(self, last_lines: tuple[str, ...] = ("the last line",)) -> None:
        self.lines = last_lines
        self.released.set_result(None)


class FakeWorker:
    """What the pool sees of a worker; the test tells its events."""

    def __init__(self, worker_id: str, tell: Callable[[WorkerEvent], None]) -> None:
        self.id = worker_id
        self.orders: list[LoadOrder | StopOrder] = []
        self.vitals = FakeChildVitals()
        self._tell = tell
        self.environment: dict[str, str] = {}

    def post(self, order: LoadOrder | StopOrder) -> None:
        self.orders.append(order)

    def belongs_to(self, model: str) -> None:
        pass

    @property
    def specs(self) -> list[Load]:
        return [order.spec for order in self.orders if isinstance(order, LoadOrder)]

    @property
    def loads(self) -> list[str]:
        return [order.spec.name for order in self.orders if isinstance(order, LoadOrder)]

    @property
    def stops(self) -> list[StopOrder]:
        return [order for order in self.orders if isinstance(order, StopOrder)]

    def tell(self, state: WorkerState, **facts: Any) -> None:
        self._tell(WorkerEvent(self.id, state, **facts))

    def become_ready(self) -> None:
        self.tell(WorkerState.WARM)
        self.tell(WorkerState.LOADING)
        self.tell(WorkerState.READY, loaded=LOADED)

    def end(self) -> None:
        """As ordered."""
        self.tell(WorkerState.EXITED, exit=ExitReport(0, None, StopStep.ASKED))

    def die(self) -> None:
        self.tell(WorkerState.EXITED, exit=KILLED)


class FakeChildVitals:
    pid = 4_000_000
    working_set_bytes: int | None = None

    def __init__(self) -> None:
        self.stats = WorkerStats()


class FakeCrew:
    """Hires workers that do nothing but remember. `refusal` makes the system run out of processes."""

    def __init__(self) -> None:
        self.workers: dict[str, FakeWorker] = {}
        self.refusal: OSError | None = None

    def hire(
        self, tell: Callable[[WorkerEvent], None], environment: Mapping[str, str] | None = None
    ) -> FakeWorker:
        if self.refusal is not None:
            raise self.refusal
        worker = FakeWorker(f"w{len(self.workers) + 1}", tell)
        worker.environment = dict(environment or {})
        self.workers[worker.id] = worker
        return worker

    def stop_all(self, order: StopOrder) -> None:
        for worker in self.workers.values():
            worker.post(order)
