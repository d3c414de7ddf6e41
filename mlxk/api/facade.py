"""What this room needs of the supervisor: its `Service` and `Job`, by shape.

The supervisor's classes satisfy these protocols without naming them; that keeps the API's pure parts
importable and testable without a socket or a process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mlxk.config.settings import Settings
from mlxk.supervisor.events import EventBus
from mlxk.supervisor.measures import PoolMeasures
from mlxk.supervisor.meters import GenerationMeter
from mlxk.workers.protocol import RequestEvent, Work


class Job(Protocol):
    """One piece of `Work` on its way: queued, loading, running, done."""

    @property
    def model(self) -> str:
        """Canonical name of the model that answers."""

    @property
    def worker_id(self) -> str | None:
        """None until a worker has it."""

    @property
    def meter(self) -> GenerationMeter | None:
        """Its counts so far; None for what generates nothing."""

    async def next(self, timeout_s: float | None = None) -> list[RequestEvent]:
        """All events that are there, after waiting for the first; [] after `timeout_s`.

        Ends with exactly one `LastWord`; not to be called after that.
        """

    def listen(
        self, on_events: Callable[[], object] | None, on_end: Callable[[], object] | None = None
    ) -> None:
        """Instead of `next`: be called when events have come, and with the last word. None: no more."""

    def take_now(self) -> list[RequestEvent]:
        """All events that are there."""

    def close(self, cause: str = "client_gone") -> None:
        """Idempotent; returns at once; aborts the work if it still runs. `cause` is for the metrics."""


class Service(Protocol):
    """The supervisor, as the API sees it. Everything that fails raises `FaultError`."""

    @property
    def settings(self) -> Settings: ...

    @property
    def events(self) -> EventBus: ...

    def is_ready(self) -> bool: ...

    def is_closing(self) -> bool: ...

    async def submit(self, model: str, request: Work, *, keep_alive_s: float | None = None) -> Job: ...

    async def describe_models(self) -> list[dict[str, Any]]:
        """Installed models: name, created, context_length, loaded, capabilities, healthy."""

    async def describe_model(self, name: str) -> dict[str, Any]: ...

    async def measures(self) -> PoolMeasures:
        """For `GET /metrics`."""

    async def pool_data(self) -> dict[str, Any]:
        """The `data` of `mlxk ps --json`."""

    async def load(self, model: str) -> dict[str, Any]:
        """Returns when the model is READY."""

    async def stop_model(
        self, model: str, *, now: bool = False, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Returns after the reap."""
