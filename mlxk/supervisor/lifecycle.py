"""Start, signals and end of the server process: `mlxk serve`.

First SIGINT: refuse new work, end every live stream with a terminal event, stop all workers in parallel.
Second SIGINT: kill everything and leave. SIGTERM and `mlxk stop` let running requests finish first, for at
most `drain_timeout`. A watchdog thread covers an event loop that is stuck.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import psutil
import uvloop
import zmq

from mlxk import __version__
from mlxk.config import paths
from mlxk.config.instance import Instance, read_instance, remove_instance, write_instance
from mlxk.config.settings import Settings
from mlxk.store.builtin import BUILTIN_NAME
from mlxk.store.catalog import Catalog
from mlxk.supervisor.control import ControlSocket
from mlxk.supervisor.crew import Crew
from mlxk.supervisor.leftovers import WORKER_SOCKET, sweep_leftovers
from mlxk.supervisor.memory import default_limit_bytes
from mlxk.supervisor.pool import Pool
from mlxk.supervisor.run_dir import InstanceLock, StartError, make_run_dir, remove_run_dir
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
from mlxk.supervisor.switchboard import Switchboard
from mlxk.workers.protocol import FaultError

log = logging.getLogger("mlxk.lifecycle")


class HttpServer(Protocol):
    """What `api.app.create_server` returns."""

    async def start(self, sock: socket.socket) -> None: ...
    async def stop(self, timeout_s: float) -> None: ...


MakeApp = Callable[[Service, Settings], HttpServer]


def run_server(settings: Settings, *, private: bool, ready_fd: int | None, make_app: MakeApp) -> int:
    """Serve until told to stop; returns the exit code. Messages for people go to stderr."""
    lock = InstanceLock()
    front = Front(settings, private, ready_fd, make_app)
    try:
        if not private and not lock.acquire():
            running = read_instance()
            where = f" at {running.url} (pid {running.pid})" if running else ""
            raise StartError(f"A server is running already{where}. `mlxk stop` ends it.")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(front.run())
    except StartError as error:
        print(f"mlxk serve: {error}", file=sys.stderr, flush=True)
        return EXIT_ERROR
    finally:
        # Once more: an interrupt may leap out of the loop, past what the front does at its end.
        front.remove_files()
        lock.release()


class Front:
    """One life of the server process."""

    def __init__(self, settings: Settings, private: bool, ready_fd: int | None, make_app: MakeApp) -> None:
        self._settings = settings
        self._private = private
        self._ready_fd = ready_fd
        self._make_app = make_app
        self._stopping = asyncio.Event()
        self._plan: ShutdownPlan | None = None
        self._interrupts = 0
        self._haste_s = min(INTERRUPT_GRACE_S, settings.stop_grace_s)
        self._crew: Crew | None = None
        self._run_dir: Path | None = None

    async def run(self) -> int:
        self._loop = asyncio.get_running_loop()
        listener = _listen(self._settings.host, self._settings.port)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._run_dir = make_run_dir()
            self._install_signals()
            return await self._serve(listener, self._run_dir, context)
        finally:
            listener.close()
            context.term()
            self.remove_files()
            self._ignore_signals()

    async def _serve(
        self, listener: socket.socket, run_dir: Path, context: zmq.Context[zmq.Socket[bytes]]
    ) -> int:
        if not self._private:
            await asyncio.to_thread(sweep_leftovers)
        address = f"ipc://{run_dir}/{WORKER_SOCKET}"
        log_dir = run_dir if self._private else paths.log_dir()
        async with contextlib.AsyncExitStack() as stack:
            # Whatever fails below: no socket stays open (its context would never end), no worker stays.
            switchboard = Switchboard(context, address)
            stack.callback(switchboard.close)
            crew = self._crew = Crew(self._settings, switchboard, address, log_dir)
            stack.push_async_callback(_dismiss, crew)
            limit = self._settings.max_memory_bytes or default_limit_bytes()
            pool = Pool(self._settings, crew, limit)
            service = Service(
                self._settings, Catalog(self._settings), pool, crew, switchboard, self._on_stop_asked
            )
            http = self._make_app(service, self._settings)
            self._start_task(stack, pool.run(), "pool").add_done_callback(self._on_pool_done)
            self._start_task(stack, self._preload(service), "preload")
            control = ControlSocket(context, f"ipc://{run_dir}/c", service)
            stack.push_async_callback(control.close)
            await http.start(listener)
            service.url = _url(listener)
            service.mark_ready()
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
        plan = self._take_plan()
        if plan.drain_s > 0 and service.has_jobs():
            log.info("waiting up to %.0f s for running requests", plan.drain_s)
            await self._unless_hurried(service.jobs_done(plan.drain_s))
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

    def _take_plan(self) -> ShutdownPlan:
        """The plan as it is now. From here on `_stopping` tells of another order."""
        assert self._plan is not None
        self._stopping.clear()
        return self._plan

    async def _unless_hurried(self, work: Coroutine[Any, Any, object]) -> bool:
        """Wait for `work`; False if another order came first (`work` is cancelled)."""
        task = asyncio.ensure_future(work)
        hurry = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([task, hurry], return_when=asyncio.FIRST_COMPLETED)
        finished = task.done()
        task.cancel()
        hurry.cancel()
        return finished

    async def _preload(self, service: Service) -> None:
        """Load the models of the command line and the configuration, one after the other."""
        for name in self._settings.preloaded():
            try:
                await service.load(name)
            except FaultError as error:
                log.error("preloading %s failed: %s", name, error.fault.message)

    # ------------------------------------------------------------------- announce

    def _announce(self, url: str, control_path: Path) -> None:
        if not self._private:
            created_at = psutil.Process().create_time()
            argv = tuple(sys.argv[1:])
            pid, control = os.getpid(), str(control_path)
            write_instance(Instance(pid, created_at, control, url, __version__, argv, os.getcwd()))
        print(f"listening on {url}", flush=True)
        if not self._private:
            model = next(iter(self._settings.preloaded()), BUILTIN_NAME)
            print(_example(url, model, self._settings.api_key_file is not None), flush=True)
        if self._ready_fd is not None:
            facts = {"pid": os.getpid(), "url": url, "control": str(control_path)}
            with contextlib.suppress(OSError):
                os.write(self._ready_fd, json.dumps(facts).encode() + b"\n")
            os.close(self._ready_fd)
        if self._private:
            threading.Thread(target=self._watch_parent, name="parent-watch", daemon=True).start()

    def _watch_parent(self) -> None:
        """A private server ends with the process that holds the other end of its stdin."""
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop, ShutdownPlan(EXIT_OK, 0, self._haste_s))

    # -------------------------------------------------------------------- signals

    def _install_signals(self) -> None:
        # signal.signal, not the loop's own: these handlers also run when a callback blocks the loop.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _ignore_signals(self) -> None:
        """Everything has ended, only the interpreter has not: there is nothing to interrupt any more."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                self._leave_now()
            plan = ShutdownPlan(EXIT_INTERRUPTED, 0, self._haste_s)
        else:
            plan = ShutdownPlan(EXIT_OK, self._settings.drain_timeout_s, self._settings.stop_grace_s)
        start_watchdog(plan, self._leave_now)  # here: the loop may be stuck and never get to the rest
        self._loop.call_soon_threadsafe(self._stop, plan)

    def _on_stop_asked(self, now: bool) -> None:
        drain_s = 0.0 if now else self._settings.drain_timeout_s
        self._stop(ShutdownPlan(EXIT_OK, drain_s, self._settings.stop_grace_s))

    def _on_pool_done(self, task: asyncio.Task[None]) -> None:
        """A bug in the pool's task: without it nothing can be served, so end loudly instead of hanging."""
        if not task.cancelled():
            log.critical("the pool's task failed", exc_info=task.exception())
            if self._crew is not None:
                self._crew.kill_all()  # nobody else can end them in order
            self._stop(ShutdownPlan(EXIT_ERROR, 0, self._haste_s))

    def _stop(self, plan: ShutdownPlan) -> None:
        """The first call starts the end; a later one may only hasten it."""
        hastened = plan if self._plan is None else self._plan.hastened_by(plan)
        if hastened != self._plan:
            self._plan = hastened
            start_watchdog(hastened, self._leave_now)
            self._stopping.set()

    def _leave_now(self) -> None:
        """The second Ctrl-C, or the watchdog: kill all workers, leave no files, end this instant."""
        if self._crew is not None:
            self._crew.kill_all()
        self.remove_files()
        os._exit(self._plan.exit_code if self._plan and not self._interrupts else EXIT_INTERRUPTED)

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


def _listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket; raises StartError with what to do."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise StartError(f"The address {host!r} cannot be used: {error.strerror}.") from error
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        raise StartError(
            f"Port {port} on {host} cannot be had ({error.strerror}). Choose another: --port N"
        ) from error
    sock.setblocking(False)
    return sock


def _example(url: str, model: str, has_key_file: bool) -> str:
    """A line to paste into another terminal."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Who are you?"}]})
    for wildcard in ("//0.0.0.0:", "//[::]:"):
        url = url.replace(wildcard, "//127.0.0.1:")
    keyed = any(os.environ.get(name) for name in ("MLXK_API_KEY", "MLXK_API_KEYS", "MLXK_API_KEY_FILE"))
    key = ' -H "Authorization: Bearer $MLXK_API_KEY"' if keyed or has_key_file else ""
    return f"try: curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
