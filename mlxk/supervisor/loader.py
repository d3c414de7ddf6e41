"""Gives models their workers: from the spare or from a new process, told what to load. The pool's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from msgspec import structs

from mlxk.config.settings import Settings
from mlxk.supervisor.budget import Budget
from mlxk.supervisor.crew import Crew
from mlxk.supervisor.memory import process_bytes
from mlxk.supervisor.orders import LoadOrder, StopOrder, WorkerEvent
from mlxk.supervisor.records import ModelRecord
from mlxk.supervisor.spare import Spare
from mlxk.workers.protocol import Load

log = logging.getLogger("mlxk.pool")


class Loader:
    """`tell` is handed to every worker."""

    def __init__(
        self,
        settings: Settings,
        crew: Crew,
        tell: Callable[[WorkerEvent], None],
        budget: Budget,
    ) -> None:
        self._crew = crew
        self._tell = tell
        self._budget = budget
        self._model_of: dict[str, str] = {}
        self._told: dict[str, Load] = {}
        """What each worker was told to load."""
        self._environments: dict[str, Mapping[str, str]] = {}
        """What each was given beside the server's own."""
        self.spare = Spare(lambda: crew.hire(tell), wanted=settings.spare)
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Also later, by a reload: for the loads to come."""
        self._settings = settings
        self.spare.wanted = settings.spare

    def start(self, record: ModelRecord) -> tuple[str, bool]:
        """A worker for the model: its id, and whether it is warm, so that `order_load` may follow when the
        record says what the worker is to it. Raises OSError if the system refuses a process. A spare is
        taken also while it warms up: it is further than a new one. But one with an environment of its own
        gets a process of its own."""
        own = self._settings.models.get(record.name)
        if own is not None and own.environment:  # a process has its environment from its start on
            worker, warm = self._crew.hire(self._tell, own.environment), False
        else:
            worker, warm = self.spare.take() or (self._crew.hire(self._tell), False)
        self._model_of[worker.id] = record.name
        self._environments[worker.id] = own.environment if own else {}
        worker.belongs_to(record.name)
        return worker.id, warm

    def order_load(self, record: ModelRecord, worker_id: str) -> None:
        self._budget.before_load(record, worker_id)
        record.share_bytes = self._budget.share_bytes(record)
        self._told[worker_id] = spec = self._spec(record)
        worker = self._crew.workers.get(worker_id)
        if worker is not None:
            worker.post(LoadOrder(spec))

    def is_outdated(self, record: ModelRecord, worker_id: str) -> bool:
        """It was told to load something else than what the record and the settings say now."""
        told, now = self._told.get(worker_id), self._spec(record)
        if told is None:
            return False
        own = self._settings.models.get(record.name)
        if self._environments.get(worker_id) != (own.environment if own else {}):
            return True
        return now != structs.replace(told, cache_bytes=now.cache_bytes, memory_bytes=now.memory_bytes)

    def _spec(self, record: ModelRecord) -> Load:
        own = self._settings.models.get(record.name)
        return Load(
            name=record.name,
            path=str(record.ref.path),
            cache_bytes=record.cache_bytes,
            memory_bytes=record.share_bytes,
            context_length=own.context_length if own else None,
            trust_remote_code=own.trust_remote_code if own else False,
            options={"max_batch": self.max_batch(record.name), **(own.options if own else {})},
        )

    def max_batch(self, name: str) -> int:
        """How many requests the model may work on at once."""
        own = self._settings.models.get(name)
        return self._settings.max_batch if own is None or own.max_batch is None else own.max_batch

    def end(self, worker_id: str, order: StopOrder) -> None:
        if (worker := self._crew.workers.get(worker_id)) is not None:
            worker.post(order)

    def memory_of(self, worker_id: str) -> int:
        """What its process holds now, in bytes; 0 if it is gone."""
        worker = self._crew.workers.get(worker_id)
        return process_bytes(worker.vitals.pid) if worker is not None else 0

    def model_of(self, worker_id: str) -> str | None:
        """None for the spare and for strangers."""
        return self._model_of.get(worker_id)

    def forget(self, worker_id: str) -> None:
        self._model_of.pop(worker_id, None)
        self._told.pop(worker_id, None)
        self._environments.pop(worker_id, None)

    def keeping(self, name: str) -> tuple[bool, float]:
        """Whether the model is pinned, and for how many seconds it is kept when idle (negative: for ever)."""
        own = self._settings.models.get(name)
        if own is None:
            return False, self._settings.keep_alive_s
        keep_alive_s = self._settings.keep_alive_s if own.keep_alive_s is None else own.keep_alive_s
        return own.pinned, keep_alive_s


def usable_context(settings: Settings, name: str, context_length: int | None) -> int | None:
    """Of a model whose files say `context_length`, as its worker will have it: the configuration may take
    away from it, never add. None: nobody says."""
    own = settings.models.get(name)
    lengths = [context_length, own.context_length if own else None]
    return min((length for length in lengths if length is not None), default=None)
