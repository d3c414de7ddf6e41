"""The front's face to the API and the control socket: names in, jobs and facts out."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from typing import Any

from mlxk import __version__
from mlxk.config.settings import Settings
from mlxk.store.catalog import Catalog, ModelRef
from mlxk.store.errors import AmbiguousModelError, UnhealthyModelError, UnknownModelError
from mlxk.store.inspection import ModelFacts
from mlxk.supervisor.configuration import describe_configuration
from mlxk.supervisor.crew import Crew
from mlxk.supervisor.display import model_data
from mlxk.supervisor.events import EventBus, EventKind
from mlxk.supervisor.job import Job
from mlxk.supervisor.loader import usable_context
from mlxk.supervisor.measures import PoolMeasures, measure
from mlxk.supervisor.memory import default_limit_bytes, process_bytes
from mlxk.supervisor.meters import Meters
from mlxk.supervisor.pool import Pool
from mlxk.supervisor.records import ModelRecord, StopResult
from mlxk.supervisor.reloading import Reloader
from mlxk.supervisor.request_defaults import with_defaults
from mlxk.supervisor.states import ModelState
from mlxk.supervisor.switchboard import Switchboard
from mlxk.supervisor.worker import Worker
from mlxk.workers.protocol import Fault, FaultCode, FaultError, Work, fault

REFRESH_TIMEOUT_S = 0.25
"""A worker's I/O thread answers within milliseconds; one that is stuck or starting is shown as last known."""
SHUTTING_DOWN = Fault(
    FaultCode.SHUTTING_DOWN, "The server is shutting down.", retryable=True, retry_after_s=5
)


class Service:
    """One running front. Made by `lifecycle`, used by every router and by the control socket."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        pool: Pool,
        crew: Crew,
        switchboard: Switchboard,
        shut_down: Callable[[bool, float | None], None],
        events: EventBus | None = None,
    ) -> None:
        self.settings = settings
        self.catalog = catalog
        self.url = ""
        self.events = events or EventBus()
        self.meters = Meters()
        self.events.observe(self.meters.on_event)
        self.reloader: Reloader | None = None
        self.restart: Callable[[bool, float | None], None] | None = None
        """Both set by the lifecycle, unless the server is private."""
        self._pool = pool
        self._crew = crew
        self._switchboard = switchboard
        self._shut_down = shut_down
        self._jobs: set[Job] = set()
        self._ready = False
        self._closing = False
        self._began = time.monotonic()

    # --------------------------------------------------------------------- state

    def is_ready(self) -> bool:
        return self._ready and not self._closing

    def is_closing(self) -> bool:
        return self._closing

    def mark_ready(self) -> None:
        self._ready = True

    def begin_closing(self) -> None:
        """From now on new work is refused."""
        self._closing = True
        self.events.emit(EventKind.SERVER, state="closing")

    def running_models(self) -> list[dict[str, Any]]:
        """Names of the models that have a process, and the memory it holds: what a shutdown will free."""
        found = [(record, self._worker(record)) for record in self._pool.records()]
        return [
            {"name": record.name, "stopped": True, "freed_bytes": process_bytes(worker.vitals.pid)}
            for record, worker in found
            if worker is not None
        ]

    async def load_counts(self) -> dict[str, int]:
        """What is at work right now, down to the workers' own word. All zero, but for `tasks`, when idle."""
        await self._refresh()
        return {
            "jobs": len(self._jobs),
            "mailboxes": self._switchboard.open_requests(),
            "waiters": sum(self._pool.queued(record.name) for record in self._pool.records()),
            "leases": sum(record.in_flight for record in self._pool.records()),
            "sequences": sum(w.vitals.stats.in_flight for w in self._crew.workers.values()),
            "listeners": self.events.n_listeners,
            "tasks": len(asyncio.all_tasks()),
        }

    def request_shutdown(self, *, now: bool = False, timeout_s: float | None = None) -> None:
        """`timeout_s` limits how long running requests may go on, below `drain_timeout`."""
        self._shut_down(now, timeout_s)

    async def request_restart(self, *, now: bool, timeout_s: float | None) -> None:
        """End as for `request_shutdown` and begin anew, in the same process: with its environment,
        arguments, terminal and pid. Raises FaultError if the configuration has become wrong."""
        self._refuse_if_closing()
        if self.reloader is None or self.restart is None:
            raise fault(FaultCode.INVALID_REQUEST, "A private server cannot be restarted.")
        await self.reloader.check()
        self.restart(now, timeout_s)

    # -------------------------------------------------------------------- reload

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again; returns what has changed. Raises FaultError if it is wrong."""
        self._refuse_if_closing()
        if self.reloader is None:
            raise fault(FaultCode.INVALID_REQUEST, "A private server has no configuration to reload.")
        return await self.reloader.reload()

    async def configuration(self) -> dict[str, Any]:
        """For `mlxk config`."""
        read = self.reloader.read if self.reloader is not None else None
        return await describe_configuration(self.settings, read)

    def configure(self, settings: Settings) -> None:
        """Take up new settings: for everything that comes from now on."""
        self.settings = settings
        self.catalog = Catalog(settings)
        self._crew.configure(settings)
        self._pool.configure(settings, settings.max_memory_bytes or default_limit_bytes())

    def process_names(self) -> set[str]:
        """Models with a process, in whatever state."""
        return set(self._pool.running_names())

    async def retire(self, name: str) -> None:
        """Stop what runs under a name that means nothing any more, when its requests are done."""
        await self._pool.stop(name, drain_s=math.inf, grace_s=self.settings.stop_grace_s)

    # -------------------------------------------------------------------- models

    async def resolve(self, name: str) -> ModelRef:
        """The installed model that a user's name means. Touches no worker.

        Raises FaultError: MODEL_NOT_FOUND with the nearest names, AMBIGUOUS_MODEL with the matches,
        MODEL_UNHEALTHY with the reason.
        """
        try:
            return self.catalog.resolve(name)
        except UnknownModelError as error:
            near = ", ".join(error.nearest)
            hint = f"Did you mean {near}?" if near else "`mlxk list` shows what is installed."
            text = f"The model {_shown(name)} is not installed. {hint}"
            raise fault(FaultCode.MODEL_NOT_FOUND, text, param="model") from error
        except AmbiguousModelError as error:
            text = f"The name {_shown(name)} means several models: {', '.join(error.matches)}."
            raise fault(FaultCode.AMBIGUOUS_MODEL, text, param="model") from error
        except UnhealthyModelError as error:
            text = f"The model {error.name!r} cannot be used: {error.reason}"
            raise fault(FaultCode.MODEL_UNHEALTHY, text, param="model") from error

    async def models(self) -> list[ModelRef]:
        return await asyncio.to_thread(self.catalog.models)

    def loaded_names(self) -> set[str]:
        return {record.name for record in self._pool.records() if record.state is ModelState.READY}

    async def describe_models(self) -> list[dict[str, Any]]:
        """Facts of all installed models, for `/v1/models`."""
        survey = await asyncio.to_thread(self.catalog.survey)
        return [self._description(ref, facts) for ref, facts in survey]

    async def describe_model(self, name: str) -> dict[str, Any]:
        """Facts of one model; raises FaultError like `resolve`."""
        ref = await self.resolve(name)
        return self._description(ref, await asyncio.to_thread(self.catalog.facts, ref))

    def _description(self, ref: ModelRef, facts: ModelFacts) -> dict[str, Any]:
        return {
            "name": ref.name,
            "created": int(ref.modified_at),
            "context_length": usable_context(self.settings, ref.name, facts.context_length),
            "loaded": ref.name in self.loaded_names(),
            "capabilities": facts.capabilities,
            "healthy": facts.usable,
        }

    # ---------------------------------------------------------------------- work

    async def submit(self, model: str, request: Work, *, keep_alive_s: float | None = None) -> Job:
        """Start a request. Raises FaultError for what is known to fail at once; all else comes as events."""
        self._refuse_if_closing()
        ref = await self.resolve(model)
        job = Job(
            ref,
            with_defaults(request, self.settings.models.get(ref.name)),
            self._pool,
            self._switchboard,
            keep_alive_s=keep_alive_s,
            abort_grace_s=self.settings.abort_grace_s,
            meters=self.meters,
        )
        self._jobs.add(job)
        job.on_done(self._jobs.discard)
        return job

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise FaultError(SHUTTING_DOWN)

    def has_jobs(self) -> bool:
        return bool(self._jobs)

    async def jobs_done(self, timeout_s: float) -> bool:
        """Wait for all running requests (a drain); False after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self._jobs and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait([job.settled for job in self._jobs], timeout=left)
        return not self._jobs

    def fail_jobs(self) -> None:
        """Every live request gets its last word now."""
        for job in list(self._jobs):
            job.fail(SHUTTING_DOWN)

    async def load(self, model: str) -> dict[str, Any]:
        """Returns when the model is READY; raises FaultError. `evicted`: models that went for it."""
        self._refuse_if_closing()
        ref = await self.resolve(model)
        already = ref.name in self.loaded_names()
        began = time.monotonic()
        with self.events.subscribe() as listener:
            await self._pool.ensure_loaded(ref)
            events = await listener.next(0)
        gone = [event["model"] for event in events if event.get("room_for") == ref.name]
        record = next((r for r in self._pool.records() if r.name == ref.name), None)
        worker = self._worker(record) if record else None
        return {
            "name": ref.name,
            "load_s": 0.0 if already else round(time.monotonic() - began, 3),
            "memory_bytes": process_bytes(worker.vitals.pid) if worker else 0,
            "already_loaded": already,
            "evicted": list(dict.fromkeys(gone)),
        }

    async def plan_load(self, model: str) -> dict[str, Any]:
        """What `load` would do now: `LoadPlan.as_data`. Changes nothing; raises FaultError like `resolve`."""
        return (await self._pool.plan(await self.resolve(model))).as_data()

    async def stop_model(
        self, model: str, *, now: bool = False, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Drain and stop a model; returns after the reap. Success also if it does not run."""
        return await self._stop(await self.name_to_stop(model), now=now, timeout_s=timeout_s)

    async def name_to_stop(self, model: str) -> str:
        """The model's own name. Of one that runs it is enough, also if its files are gone (`mlxk rm`); any
        other name must be an installed model's. Raises FaultError like `resolve`."""
        return model if model in self._pool.running_names() else (await self.resolve(model)).name

    async def stop_all(self, *, now: bool = False, timeout_s: float | None = None) -> list[dict[str, Any]]:
        names = self._pool.running_names()
        return list(await asyncio.gather(*(self._stop(name, now=now, timeout_s=timeout_s) for name in names)))

    async def restart_model(
        self, model: str, *, now: bool = False, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """A new process for the model; returns when it is ready and the old one gone. No request fails for
        it, unless `now` or `timeout_s` cuts the old one's short: by default they take the time they need."""
        self._refuse_if_closing()
        ref = await self.resolve(model)
        drain_s = 0.0 if now else math.inf if timeout_s is None else timeout_s
        began = time.monotonic()
        result = await self._pool.restart(ref, drain_s=drain_s, grace_s=self.settings.stop_grace_s)
        return {
            "name": result.name,
            "load_s": round(result.load_s, 3),
            "took_s": round(time.monotonic() - began, 3),
            "freed_bytes": result.freed_bytes,
            "seamless": result.seamless,
        }

    async def _stop(self, name: str, *, now: bool, timeout_s: float | None) -> dict[str, Any]:
        drain_s = 0.0 if now else self.settings.drain_timeout_s
        if timeout_s is not None:
            drain_s = min(drain_s, timeout_s)
        result: StopResult = await self._pool.stop(name, drain_s=drain_s, grace_s=self.settings.stop_grace_s)
        return {"name": result.name, "stopped": result.stopped, "freed_bytes": result.freed_bytes}

    # ------------------------------------------------------------------- display

    async def measures(self) -> PoolMeasures:
        """For `GET /metrics`: all models asked for since the start, with what their workers say now."""
        await self._refresh()
        return measure(self._pool, self._crew.workers, self.meters, self._began)

    async def _refresh(self) -> None:
        workers = list(self._crew.workers.values())
        await asyncio.gather(*(worker.refresh(REFRESH_TIMEOUT_S) for worker in workers))

    async def pool_data(self) -> dict[str, Any]:
        """The `data` of `mlxk ps --json` and of `GET /pool`, with what the workers say now."""
        await self._refresh()
        return {
            "server": {
                "pid": os.getpid(),
                "url": self.url,
                "version": __version__,
                "uptime_s": round(time.monotonic() - self._began, 1),
                "memory_limit_bytes": self._pool.memory_limit_bytes,
                "memory_bytes": process_bytes(os.getpid()),
                "spare": self._pool.describe_spare(),
            },
            "models": [
                model_data(record, self._worker(record), self._pool.queued_requests(record.name))
                for record in self._pool.records()
                if self._is_shown(record)
            ],
        }

    def _is_shown(self, record: ModelRecord) -> bool:
        """What runs, failed, died and was not asked for since, or is waited for (ABSENT until there is room).
        Not what has failed and was removed since (`mlxk rm`): nobody can do anything about it."""
        if record.worker_ids or self._pool.queued(record.name):
            return True
        return (record.state is not ModelState.ABSENT or record.has_died) and record.ref.path.exists()

    def _worker(self, record: ModelRecord) -> Worker | None:
        return self._crew.workers.get(record.worker_id) if record.worker_id else None


def _shown(name: str) -> str:
    """A user's text in a message: quoted, and cut to a readable length."""
    return repr(name if len(name) <= 100 else name[:100] + "…")
