"""Start, signals and end of the server process: `mlxk serve`.

First SIGINT: refuse new work, end every live stream with a terminal event, stop all workers in parallel.
Second SIGINT: kill everything and leave. SIGTERM and `mlxk stop` let running requests finish first, for at
most `drain_timeout`. A watchdog thread covers an event loop that is stuck. All of it: `docs/signals.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

import psutil
import uvloop
import zmq

from mlxk import __version__
from mlxk.config import paths
from mlxk.config.instance import Instance, read_instance, remove_instance
from mlxk.config.logs import configure_logging, flush_logs
from mlxk.config.settings import Settings
from mlxk.store.builtin import BUILTIN_NAME
from mlxk.store.catalog import Catalog
from mlxk.supervisor.announce import example, publish, report_failure, report_ready, say
from mlxk.supervisor.control import ControlSocket
from mlxk.supervisor.crew import Crew
from mlxk.supervisor.events import EventBus, EventKind
from mlxk.supervisor.leftovers import WORKER_SOCKET, sweep_leftovers
from mlxk.supervisor.listener import listen, url_of
from mlxk.supervisor.measured import MeasuredPeaks
from mlxk.supervisor.memory import default_limit_bytes
from mlxk.supervisor.pool import Pool
from mlxk.supervisor.reloading import ReadSettings, Reloader
from mlxk.supervisor.run_dir import InstanceLock, StartError, lock_holder, make_run_dir, remove_run_dir
from mlxk.supervisor.service import SHUTTING_DOWN, Service
from mlxk.supervisor.shutdown import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_OK,
    HTTP_CLOSE_S,
    INTERRUPT_GRACE_S,
    ShutdownPlan,
    start_watchdog,
)
from mlxk.supervisor.signals import SignalDesk, ignore, leave_at_once
from mlxk.supervisor.switchboard import Switchboard
from mlxk.workers.protocol import FaultError

log = logging.getLogger("mlxk.lifecycle")


class HttpServer(Protocol):
    """What `api.app.create_server` returns."""

    async def start(self, sock: socket.socket) -> None: ...
    async def stop(self, timeout_s: float) -> None: ...
    def configure(self, settings: Settings) -> None: ...


LAST_LINES_S = 2.0
"""And so long for the last lines of its log: they say why. Only a disk that hangs needs it all."""
FILES_WAIT_S = 1.0
"""Who leaves at once waits so long for a file that is just being made: a dead disk takes for ever."""

MakeApp = Callable[[Service, Settings], HttpServer]
ImportApi = Callable[[], MakeApp]
"""Takes a while, and is called in a thread: the first worker starts beside it."""


def run_server(
    settings: Settings,
    *,
    private: bool,
    ready_fd: int | None,
    import_api: ImportApi,
    signals: SignalDesk | None = None,
    read_again: ReadSettings | None = None,
) -> int | None:
    """Serve until told to stop. Returns the exit code, or None if this process is to begin anew as a server
    (`mlxk restart`). Raises StartError; who holds the other end of `ready_fd` has then been told, too."""
    lock = InstanceLock()
    front = Front(settings, private, ready_fd, import_api, read_again)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            front.loop = runner.get_loop()  # what a signal orders from now on waits there until it runs
            if signals is not None:
                signals.hand_over(front.on_signal)
            if not private and not lock.acquire():
                raise StartError(_already_running())
            code = runner.run(front.run())
            return None if front.again else code
    except StartError as error:
        if ready_fd is not None:
            report_failure(ready_fd, str(error))
        raise
    finally:
        front.remove_files()  # once more: a loop that breaks down takes the front's own end with it
        lock.release()
        if signals is not None:
            signals.hand_over(leave_at_once if front.again else ignore)


class Front:
    """One life of the server process."""

    loop: asyncio.AbstractEventLoop
    """Set before `run`, and before the first signal may come."""

    def __init__(
        self,
        settings: Settings,
        private: bool,
        ready_fd: int | None,
        import_api: ImportApi,
        read_again: ReadSettings | None = None,
    ) -> None:
        self._settings = settings
        self._read_again = read_again
        self._service: Service | None = None
        """For a reload; None while there is nothing to reload."""
        self._private = private
        self._ready_fd = ready_fd
        self._import_api = import_api
        self._stopping = asyncio.Event()
        self._plan: ShutdownPlan | None = None
        self._drain_until = math.inf
        self._interrupts = 0
        self._reloads: set[asyncio.Future[dict[str, Any]]] = set()
        self._n_orders = 0
        self._restart_order: int | None = None
        self._watchdog_at = math.inf
        self._haste_s = min(INTERRUPT_GRACE_S, settings.stop_grace_s)
        self._crew: Crew | None = None
        self._run_dir: Path | None = None
        self._making_files = threading.Lock()
        """Held while a file is made, and for good by who leaves at once: nothing is made after that."""

    async def run(self) -> int:
        listener = listen(self._settings.host, self._settings.port)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            with self._making_files:
                self._run_dir = make_run_dir()
            return await self._serve(listener, self._run_dir, context)
        finally:
            listener.close()
            context.term()
            self.remove_files()

    async def _serve(
        self, listener: socket.socket, run_dir: Path, context: zmq.Context[zmq.Socket[bytes]]
    ) -> int:
        if not self._private and not await self._unless_hurried(asyncio.to_thread(sweep_leftovers)):
            return self._take_plan().exit_code
        address = f"ipc://{run_dir}/{WORKER_SOCKET}"
        log_dir = run_dir if self._private else paths.log_dir()
        async with contextlib.AsyncExitStack() as stack:
            # Whatever fails below: no socket stays open (its context would never end), no worker stays.
            switchboard = Switchboard(context, address)
            stack.callback(switchboard.close)
            crew = self._crew = Crew(self._settings, switchboard, address, log_dir)
            stack.push_async_callback(_dismiss, crew)
            limit = self._settings.max_memory_bytes or default_limit_bytes()
            events = EventBus()
            pool = Pool(self._settings, crew, limit, events, MeasuredPeaks(paths.measured_file()))
            catalog = Catalog(self._settings)
            service = Service(self._settings, catalog, pool, crew, switchboard, self._on_stop_asked, events)
            self._start_task(stack, pool.run(), "pool").add_done_callback(self._on_pool_done)
            self._start_task(stack, self._preload(service), "preload")
            make_app = await asyncio.to_thread(self._import_api)
            http = make_app(service, self._settings)
            if self._read_again is not None and not self._private:
                service.reloader = Reloader(service, self._read_again, partial(self._take_up, http), events)
                service.restart = self._on_restart_asked
                self._service = service
            control = ControlSocket(context, f"ipc://{run_dir}/c", service)
            stack.push_async_callback(control.close)
            await http.start(listener)
            service.url = url_of(listener)
            if not self._stopping.is_set():
                service.mark_ready()
                events.emit(EventKind.SERVER, state="ready")
                self._announce(service.url, run_dir / "c")
            await self._stopping.wait()
            return await self._close(service, pool, crew, http)

    def _start_task(
        self, stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None], name: str
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)

        async def end() -> None:
            task.cancel()
            await asyncio.wait([task])

        stack.push_async_callback(end)
        return task

    async def _close(self, service: Service, pool: Pool, crew: Crew, http: HttpServer) -> int:
        service.begin_closing()
        log.info("the server ends%s: %s", " and begins anew" if self.again else "", self._take_plan().cause)
        await self._drain(service)
        service.fail_jobs()
        http_closed = asyncio.create_task(http.stop(HTTP_CLOSE_S))
        finished = False
        while not finished:
            plan = self._take_plan()
            pool.close(SHUTTING_DOWN, drain_s=0, grace_s=plan.grace_s)
            finished = await self._unless_hurried(crew.gone(timeout_s=2 * plan.grace_s + 2.0))
        if crew.workers:
            log.error("some workers did not end in time; they are killed")
        await _dismiss(crew)
        await http_closed
        return self._take_plan().exit_code

    async def _drain(self, service: Service) -> None:
        """Wait for running requests, until the earliest of the limits that were ordered."""
        while service.has_jobs():
            self._take_plan()
            left_s = self._drain_until - time.monotonic()
            if left_s <= 0:
                return
            log.info("waiting up to %.0f s for running requests", left_s)
            await self._unless_hurried(service.jobs_done(left_s))

    def _take_plan(self) -> ShutdownPlan:
        """The plan as it is now. From here on `_stopping` tells of another order."""
        assert self._plan is not None
        self._stopping.clear()
        return self._plan

    async def _unless_hurried(self, work: Coroutine[Any, Any, object]) -> bool:
        """Wait for `work`; False if another order came first (`work` is cancelled). Raises what it raises."""
        task = asyncio.ensure_future(work)
        hurry = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([task, hurry], return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if task.done():
            task.result()
            return True
        task.cancel()
        return False

    async def _preload(self, service: Service) -> None:
        """Load the models of the command line and the configuration, one after the other."""
        for name in self._settings.preloaded():
            try:
                await service.load(name)
            except FaultError as error:
                if service.is_closing():
                    return
                log.error("preloading %s failed: %s", name, error.fault.message)

    # ------------------------------------------------------------------- announce

    def _announce(self, url: str, control_path: Path) -> None:
        if not self._private:
            created_at = psutil.Process().create_time()
            argv = tuple(sys.argv[1:])
            pid, control = os.getpid(), str(control_path)
            with self._making_files:
                publish(Instance(pid, created_at, control, url, __version__, argv, _cwd()))
        log.info("mlxk %s serves on %s (pid %d)", __version__, url, os.getpid())
        say(f"listening on {url}")
        if not self._private:
            model = next(iter(self._settings.preloaded()), BUILTIN_NAME)
            say(example(url, model, self._settings.api_key_file))
        if self._ready_fd is not None:
            report_ready(self._ready_fd, pid=os.getpid(), url=url, control=str(control_path))
        if self._private:
            threading.Thread(target=self._watch_parent, name="parent-watch", daemon=True).start()

    def _watch_parent(self) -> None:
        """A private server ends with the process that holds the other end of its stdin."""
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        self._order(ShutdownPlan(EXIT_OK, 0, self._haste_s, "the process that it belongs to has gone"))

    # --------------------------------------------------------------- orders to end

    def on_signal(self, number: int) -> None:
        """In the signals' own thread: the loop may be stuck, or not run yet."""
        if number == signal.SIGHUP:
            with contextlib.suppress(RuntimeError):  # the loop is closed: there is nothing left to reload
                self.loop.call_soon_threadsafe(self._reload)
            return
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                self._leave_now("a second SIGINT")
            self._order(ShutdownPlan(EXIT_INTERRUPTED, 0, self._haste_s, "SIGINT"))
        else:
            self._order(self._patient_plan(self._settings.drain_timeout_s, signal.Signals(number).name))

    def _reload(self) -> None:
        if self._service is not None and not self._service.is_closing():
            task = asyncio.ensure_future(self._service.reload())
            self._reloads.add(task)
            task.add_done_callback(self._on_reloaded)

    def _on_reloaded(self, task: asyncio.Future[dict[str, Any]]) -> None:
        """What was wrong has been logged; nobody else waits for it."""
        self._reloads.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, FaultError):
            log.error("the reload failed", exc_info=error)

    def _take_up(self, http: HttpServer, settings: Settings) -> None:
        """What a reload changes outside of the pool. Raises ConfigError, and has changed nothing then."""
        http.configure(settings)
        configure_logging(settings.log_level, settings.log_json)
        self._settings = settings

    def _patient_plan(self, drain_s: float, cause: str) -> ShutdownPlan:
        return ShutdownPlan(EXIT_OK, drain_s, self._settings.stop_grace_s, cause)

    def _on_stop_asked(self, now: bool, drain_limit_s: float | None, verb: str = "stop") -> None:
        drain_s = 0.0 if now else self._settings.drain_timeout_s
        drain_s = drain_s if drain_limit_s is None else min(drain_s, drain_limit_s)
        self._order(self._patient_plan(drain_s, f"`mlxk {verb}{' --now' if now else ''}`"))

    def _on_restart_asked(self, now: bool, drain_limit_s: float | None) -> None:
        self._on_stop_asked(now, drain_limit_s, "restart")
        self._restart_order = self._n_orders

    @property
    def again(self) -> bool:
        """It ends for a restart. Unless another order has come since: who stops a server that restarts wants
        it stopped."""
        return self._restart_order == self._n_orders

    def _on_pool_done(self, task: asyncio.Task[None]) -> None:
        """A bug in the pool's task: without it nothing can be served, so end loudly instead of hanging."""
        if not task.cancelled():
            log.critical("the pool's task failed", exc_info=task.exception())
            if self._crew is not None:
                self._crew.kill_all()  # nobody else can end them in order
            self._order(ShutdownPlan(EXIT_ERROR, 0, self._haste_s, "the pool's task failed"))

    def _order(self, plan: ShutdownPlan) -> None:
        """From any thread. The watchdog first: the loop may never get to the rest."""
        self._n_orders += 1
        if (at := time.monotonic() + plan.limit_s) < self._watchdog_at:
            self._watchdog_at = at
            start_watchdog(plan, partial(self._leave_now, "the watchdog: its orderly end took too long"))
        with contextlib.suppress(RuntimeError):  # the loop is closed: that was the end already
            self.loop.call_soon_threadsafe(self._stop, plan)

    def _stop(self, plan: ShutdownPlan) -> None:
        """The first order starts the end; a later one may only hasten it."""
        hastened = plan if self._plan is None else self._plan.hastened_by(plan)
        drain_until = min(self._drain_until, time.monotonic() + plan.drain_s)
        if hastened != self._plan or drain_until < self._drain_until:
            if self._plan is not None:
                log.info("its end is hastened: %s", plan.cause)
            self._plan, self._drain_until = hastened, drain_until
            self._stopping.set()

    def _leave_now(self, cause: str) -> NoReturn:
        """The second Ctrl-C, or the watchdog, in their threads: kill all workers, leave no files, end."""
        if self._crew is not None:
            self._crew.kill_all()
        log.warning("the server leaves at once: %s", cause)
        self._making_files.acquire(timeout=FILES_WAIT_S)
        self.remove_files()
        flush_logs(LAST_LINES_S)
        os._exit(EXIT_INTERRUPTED if self._interrupts else EXIT_ERROR)

    def remove_files(self) -> None:
        """The instance file and the socket directory. Idempotent."""
        if not self._private:
            remove_instance(os.getpid())
        if self._run_dir is not None:
            remove_run_dir(self._run_dir)


async def _dismiss(crew: Crew) -> None:
    """The workers' unconditional end: at once if they are gone already."""
    if crew.workers:
        crew.kill_all()
        await crew.gone(timeout_s=5.0)
    crew.close()


def _already_running() -> str:
    running = read_instance()
    if running is not None:
        return f"A server is running already at {running.url} (pid {running.pid}). `mlxk stop` ends it."
    pid = lock_holder()
    return (
        f"A server is running already{f' (pid {pid})' if pid else ''}: it holds {paths.lock_file()}. It is "
        f"starting or ending, or its instance.json was lost. If it stays, end it with: kill {pid or 'PID'}"
    )


def _cwd() -> str:
    """Empty if it was removed: `mlxk restart` then starts the server where it is called itself."""
    try:
        return os.getcwd()
    except OSError:
        return ""
