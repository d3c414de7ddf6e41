"""uvicorn, tamed: it serves one given socket, and signals, logging and the event loop are not its own."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import math
import socket
from collections.abc import Iterator
from typing import cast

import uvicorn
from fastapi import FastAPI

from mlxk.api.acceptor import Acceptor
from mlxk.api.connections import HttpConnection, bound
from mlxk.api.rules import DoorRules
from mlxk.config.settings import Settings

_log = logging.getLogger("mlxk.api")

TICK_S = 1.0
TICKS_PER_CHECK = 10
"""As uvicorn counts them: its own are 0.1 s apart."""
END_POLL_S = 0.005


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepts = asyncio.Event()
        self._ends = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ends.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's handlers would take SIGINT and SIGTERM away from the lifecycle, wait for open streams
        # (an endless one survives three Ctrl-C), and raise the signals again at the end.
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_CHECK == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                try:
                    cast(HttpConnection, connection).check(now)
                except Exception:  # a mistake of ours about one must not end the watch over all
                    _log.exception("a connection could not be checked")
                    connection.transport.abort()
        return await super().on_tick(counter)

    async def main_loop(self) -> None:
        # uvicorn's own looks every 0.1 s whether it shall end.
        counter = 0
        while not await self.on_tick(counter):
            counter += TICKS_PER_CHECK
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._ends.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn's own takes 0.1 s where nothing is open, and looks as rarely whether something still is.
        for server in self.servers:
            server.close()
        for sock in sockets or ():
            sock.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.config.timeout_graceful_shutdown or 0)
        await asyncio.sleep(0)  # what was closed says goodbye
        while (state.connections or state.tasks) and loop.time() < deadline:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(END_POLL_S)
        for task in list(state.tasks):
            task.cancel()
        for server in self.servers:
            await server.wait_closed()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])  # the rest of it
        self.servers = [Acceptor(one, self._make_protocol, self._make_room) for one in sockets or ()]  # type: ignore[misc]
        self.accepts.set()

    def _make_room(self, n_wanted: int) -> None:
        """Close the connections that have been idle for longest."""
        known = cast("set[HttpConnection]", self.server_state.connections)
        resting = [one for one in known if one.rests_since < math.inf]
        for connection in heapq.nsmallest(n_wanted, resting, key=lambda one: one.rests_since):
            connection.transport.close()

    def _make_protocol(self) -> HttpConnection:
        return cast(
            HttpConnection,
            self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            ),
        )


class ApiServer:
    """`start` it once on a bound socket, `stop` it once. It must be used within one event loop."""

    def __init__(
        self,
        app: FastAPI,
        *,
        rules: DoorRules,
        default_stop_s: float = 10.0,
    ) -> None:
        self._app = app
        self._rules = rules
        self._default_stop_s = default_stop_s
        self._uvicorn: _Uvicorn | None = None
        self._task: asyncio.Task[None] | None = None

    def configure(self, settings: Settings) -> None:
        """Take up new keys and limits (a reload). Raises ConfigError, and has changed nothing then."""
        self._rules.take_up(settings)

    async def start(self, sock: socket.socket) -> None:
        """Returns when connections are accepted. `sock` is bound; it is closed by `stop`."""
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Connections inherit it. asyncio sets it only where the socket was made with IPPROTO_TCP;
            # without it each event of a stream waits for an ACK, 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            log_config=None,
            # Its INFO lines tell of a Ctrl-C that is not its own; access lines are AccessDoor's.
            log_level="warning",
            access_log=False,
            loop="none",
            http=bound(self._rules),
            ws="none",
            proxy_headers=False,
            server_header=False,
            # A conversation's next turn should find its connection open.
            timeout_keep_alive=75,
        )
        self._uvicorn = _Uvicorn(config)
        self._task = asyncio.create_task(self._uvicorn.serve(sockets=[sock]), name="http")
        accepts = asyncio.create_task(self._uvicorn.accepts.wait())
        try:
            await asyncio.wait((self._task, accepts), return_when=asyncio.FIRST_COMPLETED)
        finally:
            accepts.cancel()
        if self._task.done():
            await self._task  # raises what kept it from starting
            raise RuntimeError("the HTTP server ended before it accepted a connection")

    def count_connections(self) -> int:
        return len(self._uvicorn.server_state.connections) if self._uvicorn is not None else 0

    async def stop(self, timeout_s: float | None = None) -> None:
        """Accepts nothing more, waits up to `timeout_s` for the requests that run, then cancels them (their
        jobs are closed). Returns when nothing of the server is left."""
        if self._uvicorn is None or self._task is None:
            return
        timeout_s = self._default_stop_s if timeout_s is None else timeout_s
        # Whole seconds by its type; used in asyncio.wait_for.
        self._uvicorn.config.timeout_graceful_shutdown = max(1, math.ceil(timeout_s))
        self._uvicorn.end()
        await self._task
        cancelled = list(self._uvicorn.server_state.tasks)
        await asyncio.gather(*cancelled, return_exceptions=True)
