"""Who takes how much of the memory that all models may have together. The pool's own; decides nothing.

A model is charged what it is expected to take (`costs`), more if it is seen to take more (`measured`), and
less when its prefix cache was told to be smaller and its worker has confirmed it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from mlxk.config.settings import Settings
from mlxk.store.catalog import ModelRef
from mlxk.supervisor.costs import Estimate
from mlxk.supervisor.crew import Crew
from mlxk.supervisor.events import EventBus, EventKind
from mlxk.supervisor.eviction import Trim
from mlxk.supervisor.forecast import forecast, kind_of
from mlxk.supervisor.measured import Kind, MeasuredPeaks
from mlxk.supervisor.memory import process_bytes, process_peak_bytes
from mlxk.supervisor.orders import TrimOrder
from mlxk.supervisor.records import ModelRecord
from mlxk.supervisor.states import ModelState
from mlxk.workers.protocol import Trimmed

log = logging.getLogger("mlxk.pool")

OBSERVE_EVERY_S = 2.0
SAVE_EVERY_S = 20.0
SHARE_GAIN, SHARE_LOSS = 1.1, 0.99
"""A worker is told of a share that has changed by so much: not of every peak of a neighbour's."""


class Budget:
    def __init__(
        self,
        settings: Settings,
        limit_bytes: int,
        crew: Crew,
        records: Mapping[str, ModelRecord],
        measured: MeasuredPeaks,
        events: EventBus,
    ) -> None:
        self._crew = crew
        self._records = records
        self._measured = measured
        self._events = events
        self._working_set_bytes: int | None = None
        self._next_observation = self._next_save = 0.0
        self.configure(settings, limit_bytes)

    def configure(self, settings: Settings, limit_bytes: int) -> None:
        """Also later, by a reload: for the loads to come."""
        self._settings = settings
        self._given_limit_bytes = limit_bytes

    @property
    def limit_bytes(self) -> int:
        """What is configured; else what the machine's Metal recommends, once a worker has said it."""
        if self._settings.max_memory_bytes is None and self._working_set_bytes is not None:
            return self._working_set_bytes
        return self._given_limit_bytes

    def adopt(self, working_set_bytes: int | None) -> None:
        """A worker has said what its Metal recommends for the machine."""
        if working_set_bytes and working_set_bytes != self._working_set_bytes:
            log.info("Metal recommends a working set of %d bytes", working_set_bytes)
            self._working_set_bytes = working_set_bytes

    # -------------------------------------------------------------------- charges

    def estimate(self, ref: ModelRef) -> Estimate:
        return forecast(ref, self._settings, self.limit_bytes, self._measured)

    def prepare(self, record: ModelRecord) -> None:
        """It has no process: what the next one will take."""
        expected = self.estimate(record.ref)
        record.cost_bytes, record.cache_bytes = expected.cost_bytes, expected.cache_bytes
        record.trimming_bytes = record.trimmed_bytes = record.share_bytes = 0

    def order_trim(self, trim: Trim) -> None:
        """A smaller cache for a model, charged when its worker has confirmed it; or a larger one, at once."""
        record = self._records[trim.model]
        record.cache_bytes -= trim.release_bytes
        if trim.release_bytes > 0:
            record.trimming_bytes += trim.release_bytes
            log.info("trimming the prefix cache of %s to %d bytes", trim.model, record.cache_bytes)
            self._events.emit(EventKind.TRIMMED, model=trim.model, max_bytes=record.cache_bytes)
        else:
            record.cost_bytes -= trim.release_bytes
            record.trimmed_bytes += trim.release_bytes
        self._tell(record)

    def on_trimmed(self, record: ModelRecord, worker_id: str, done: Trimmed) -> None:
        if worker_id != record.worker_id or not record.trimming_bytes or done.max_bytes != record.cache_bytes:
            return  # an earlier order's
        log.info("%s gave %d bytes back", record.name, done.freed_bytes)
        record.cost_bytes -= record.trimming_bytes
        record.trimmed_bytes += record.trimming_bytes
        record.trimming_bytes = 0

    # --------------------------------------------------------------------- shares

    def share_bytes(self, record: ModelRecord) -> int:
        """Its worker's part of the limit: its charge, and its part of what is free. All shares together stay
        within the limit."""
        held = [one.view(0).held_bytes for one in self._records.values()]
        sharers = sum(len(one.worker_ids) for one in self._records.values()) or 1
        return record.cost_bytes + max(0, self.limit_bytes - sum(held)) // sharers

    def share_out(self) -> None:
        """Workers come and go, so shares change."""
        for record in self._records.values():
            if record.state is not ModelState.READY or record.successor_id is not None:
                continue
            share = self.share_bytes(record)
            if not SHARE_LOSS <= share / max(1, record.share_bytes) <= SHARE_GAIN:
                record.share_bytes = share
                self._tell(record)

    def _tell(self, record: ModelRecord) -> None:
        worker = self._crew.workers.get(record.worker_id) if record.worker_id else None
        if worker is not None:
            worker.post(TrimOrder(record.cache_bytes, record.share_bytes or None))

    # ------------------------------------------------------------------- measuring

    def before_load(self, record: ModelRecord, worker_id: str) -> None:
        """Its worker, which has imported everything and holds no model, is about to load."""
        worker = self._crew.workers.get(worker_id)
        record.bare_bytes = process_bytes(worker.vitals.pid) if worker else 0

    def note_loaded(self, record: ModelRecord, load_s: float) -> None:
        record.peak_bytes = 0
        if (
            record.trimming_bytes
        ):  # its old worker's answer will not count: this one has the smaller cache already
            record.cost_bytes -= record.trimming_bytes
            record.trimmed_bytes += record.trimming_bytes
            record.trimming_bytes = 0
        self._measured.begin_run(self._kind(record.ref), load_s)
        self.observe(record)

    def observe(self, record: ModelRecord) -> None:
        """Its peak so far, which is remembered and charged if it is more than was expected."""
        worker = self._crew.workers.get(record.worker_id) if record.worker_id else None
        if worker is None or record.loaded is None:
            return
        stats = worker.vitals.stats
        # MLX's own peak beside what the process held without a model: on some systems the process's size
        # leaves out what the GPU holds.
        peak = max(process_peak_bytes(worker.vitals.pid), record.bare_bytes + stats.peak_bytes)
        if peak <= record.peak_bytes:
            return
        record.peak_bytes = peak
        working_bytes = max(0, peak - stats.cache.bytes)
        self._measured.note_peak(self._kind(record.ref), working_bytes)
        record.cost_bytes = max(record.cost_bytes, working_bytes + record.cache_bytes + record.trimming_bytes)

    def on_tick(self, now: float) -> None:
        if now >= self._next_observation:
            self._next_observation = now + OBSERVE_EVERY_S
            for record in self._records.values():
                self.observe(record)
        if now >= self._next_save:
            self._next_save = now + SAVE_EVERY_S
            if (news := self._measured.take_unsaved()) is not None:
                # Not here: a slow disk must not hold up the streams.
                asyncio.get_running_loop().run_in_executor(None, self._measured.write, news)

    def close(self) -> None:
        self._measured.save()

    def _kind(self, ref: ModelRef) -> Kind:
        return kind_of(ref, self._settings, self.limit_bytes)
