"""SIGHUP and `mlxk reload`: the configuration is read again, and only what has changed is touched.

Wrong settings change nothing: everything that can be refused is asked before anything is applied.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Protocol

from mlxk.config.errors import ConfigError
from mlxk.config.reload import Changes, compare, effective
from mlxk.config.settings import Settings
from mlxk.supervisor.events import EventBus, EventKind
from mlxk.workers.protocol import Fault, FaultCode, FaultError

log = logging.getLogger("mlxk.lifecycle")

ReadSettings = Callable[[], Settings]
"""Reads flags, environment and file anew; raises ConfigError."""


class Service(Protocol):
    """What is asked of `service.Service`."""

    settings: Settings

    def configure(self, settings: Settings) -> None: ...
    def process_names(self) -> set[str]: ...
    def resolve(self, name: str) -> Awaitable[object]: ...
    async def load(self, model: str) -> dict[str, Any]: ...
    async def restart_model(self, model: str) -> dict[str, Any]: ...
    async def retire(self, name: str) -> None: ...


class Reloader:
    """`accept` is asked first: it takes up the new settings outside of the pool (doors, logging) or raises
    ConfigError. One reload at a time."""

    def __init__(
        self,
        service: Service,
        read: ReadSettings,
        accept: Callable[[Settings], None],
        events: EventBus,
    ) -> None:
        self._service = service
        self.read = read
        self._accept = accept
        self._events = events
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def reload(self) -> dict[str, Any]:
        """Returns what has changed (the fields of `Changes`). Restarts and loads that follow from it go on
        after the return. Raises FaultError with the reason if the new settings are wrong."""
        async with self._turn:
            try:
                new = await asyncio.to_thread(self.read)
                settings = effective(self._service.settings, new)
                self._accept(settings)
            except ConfigError as error:
                text = f"The configuration was not reloaded, the old one stays in effect: {error}"
                log.error("%s", text)
                self._events.emit(EventKind.RELOADED, error=text)
                raise FaultError(Fault(FaultCode.INVALID_REQUEST, text), error.as_data()) from error
            changes = compare(self._service.settings, new)
            running = self._service.process_names()
            self._service.configure(settings)
            self._follow_up(changes, running)
        facts = asdict(changes)
        log.info("the configuration was reloaded: %s", _summary(changes))
        self._events.emit(EventKind.RELOADED, **facts)
        return facts

    async def check(self) -> None:
        """Raises FaultError if a server could not start with what the configuration says now."""
        try:
            await asyncio.to_thread(self.read)
        except ConfigError as error:
            text = f"The server was not restarted, the configuration is wrong: {error}"
            raise FaultError(Fault(FaultCode.INVALID_REQUEST, text), error.as_data()) from error

    def _follow_up(self, changes: Changes, running: set[str]) -> None:
        for name in changes.models_to_restart:
            if name in running:
                self._start(self._renew(name), name)
        for name in changes.models_to_load:
            if name not in running:
                self._start(self._service.load(name), name)

    async def _renew(self, name: str) -> None:
        """The name may mean nothing any more: then what runs under it is let go."""
        try:
            await self._service.resolve(name)
        except FaultError as error:
            if error.fault.code is not FaultCode.MODEL_NOT_FOUND:
                raise
            await self._service.retire(name)
            return
        await self._service.restart_model(name)

    def _start(self, work: Awaitable[object], name: str) -> None:
        async def carry_out() -> None:
            try:
                await work
            except FaultError as error:
                log.error("after the reload: %s: %s", name, error.fault.message)

        task = asyncio.create_task(carry_out(), name=f"reload-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _summary(changes: Changes) -> str:
    facts = asdict(changes).items()
    parts = [f"{key.replace('_', ' ')}: {', '.join(names)}" for key, names in facts if names]
    return "; ".join(parts) or "nothing has changed"
