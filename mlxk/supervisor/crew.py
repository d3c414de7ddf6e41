"""Spawns workers and keeps their tasks: the pool's hands. Decides nothing."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from mlxk.config.settings import Settings
from mlxk.supervisor.child import LIFELINE_FD, Lifeline, spawn, wait_all_exited
from mlxk.supervisor.exits import death_fault, exit_report
from mlxk.supervisor.log_shelf import LogShelf
from mlxk.supervisor.obituary import Obituary
from mlxk.supervisor.orders import StopOrder, WorkerEvent
from mlxk.supervisor.states import StopStep, WorkerState
from mlxk.supervisor.switchboard import Switchboard
from mlxk.supervisor.worker import LAST_OUTPUT_S, Worker
from mlxk.supervisor.worker_log import LogPump, WorkerLog

log = logging.getLogger("mlxk.pool")

_NOTHING_MORE: Mapping[str, str] = {}


class Crew:
    """All worker processes of this front, by spawn id."""

    def __init__(self, settings: Settings, switchboard: Switchboard, address: str, log_dir: Path) -> None:
        self._settings = settings
        self._switchboard = switchboard
        self._address = address
        self._numbers = itertools.count(1)
        self._lifeline = Lifeline()
        self._pump = LogPump(LogShelf(log_dir))
        self._tasks: set[asyncio.Task[None]] = set()
        self.workers: dict[str, Worker] = {}

    def configure(self, settings: Settings) -> None:
        """New settings (a reload): also for the workers that run."""
        self._settings = settings
        for worker in self.workers.values():
            worker.configure(settings)

    def hire(
        self, tell: Callable[[WorkerEvent], None], environment: Mapping[str, str] = _NOTHING_MORE
    ) -> Worker:
        """Spawn a worker without a model, with these variables beside the server's own. Raises OSError if the
        system refuses a process."""
        worker_id = f"w{next(self._numbers)}"
        arguments = ["-m", "mlxk.workers", "--connect", self._address, "--id", worker_id]
        arguments += ["--lifeline-fd", str(LIFELINE_FD), "--engine", self._settings.engine]
        variables = {**environment, "PYTHONUNBUFFERED": "1"}
        child = spawn(arguments, self._lifeline.read_fd, variables)
        output = WorkerLog(worker_id, child.pid, child.output_fd)
        self._pump.add(output)
        tell = Obituary(worker_id, child.pid, output, self._pump.shelf, tell).take
        worker = Worker(worker_id, child, output, self._switchboard, self._settings, tell, self._pump.drop)
        self.workers[worker_id] = worker
        task = asyncio.create_task(self._mind(worker, output, tell), name=f"worker-{worker_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        log.info("spawned %s (pid %d)", worker_id, child.pid)
        return worker

    async def _mind(self, worker: Worker, output: WorkerLog, tell: Callable[[WorkerEvent], None]) -> None:
        """Its life, to the end. A bug in its task is a death like any other: nobody may wait for ever."""
        try:
            await worker.run()
        except Exception:
            log.critical("the task of %s failed; its process is killed", worker.id, exc_info=True)
            worker.child.signal_group(signal.SIGKILL)
            status = await asyncio.shield(worker.child.exited)
            await self._pump.drop(output)
            report = exit_report(status, StopStep.NONE, output.tail())
            self._switchboard.disconnect_worker(worker.id, death_fault(report))
            tell(WorkerEvent(worker.id, WorkerState.EXITED, exit=report))
        finally:
            self.workers.pop(worker.id, None)

    def stop_all(self, order: StopOrder) -> None:
        for worker in self.workers.values():
            worker.post(order)

    def kill_all(self) -> None:
        """SIGKILL every group, from any thread and without the event loop."""
        for worker in list(self.workers.values()):
            worker.child.signal_group(signal.SIGKILL)

    async def gone(self, timeout_s: float) -> bool:
        """Wait until every process is reaped and every task done; False after `timeout_s`."""
        await wait_all_exited([w.child for w in self.workers.values()], timeout_s)
        if self._tasks:
            # With each process gone, its task waits for nothing but its last output.
            await asyncio.wait(set(self._tasks), timeout=LAST_OUTPUT_S + 1.0)
        return not self.workers

    def close(self) -> None:
        self._lifeline.close()
        self._pump.close()
