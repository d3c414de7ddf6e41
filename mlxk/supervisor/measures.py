"""A snapshot of the whole pool for `GET /metrics`: gauges as they are now, counts since the server began.

Nothing in it is shared with the pool: it may be read in another thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from mlxk.supervisor.memory import process_bytes
from mlxk.supervisor.meters import Meters, ModelMeter
from mlxk.supervisor.pool import Pool
from mlxk.supervisor.records import ModelRecord
from mlxk.supervisor.states import ModelState
from mlxk.supervisor.worker import Worker


@dataclass(frozen=True, slots=True)
class ModelMeasures:
    """Of one model; sums over its processes (a restart has two for a while)."""

    name: str
    state: ModelState
    pinned: bool
    in_flight: int
    queued: int
    processes: int
    restarts: int
    crashes: int
    memory_bytes: int
    reserved_bytes: int
    """Its charge on the memory limit; 0 without a process."""
    share_bytes: int
    """What its worker was told that it may take; 0 without a process."""
    mlx_active_bytes: int
    mlx_cached_bytes: int
    cache_entries: int
    cache_bytes: int
    cache_limit_bytes: int
    tokens_per_s: float
    meter: ModelMeter


@dataclass(frozen=True, slots=True)
class PoolMeasures:
    began_at: float
    """In Unix time."""
    uptime_s: float
    memory_bytes: int
    """Of the front's own process."""
    memory_limit_bytes: int
    spare_ready: bool
    models: tuple[ModelMeasures, ...]


def measure(pool: Pool, workers: Mapping[str, Worker], meters: Meters, began: float) -> PoolMeasures:
    """`began` as of `time.monotonic`."""
    records = {record.name: record for record in pool.records()}
    spare = pool.describe_spare()
    return PoolMeasures(
        began_at=meters.began_at,
        uptime_s=time.monotonic() - began,
        memory_bytes=process_bytes(os.getpid()),
        memory_limit_bytes=pool.memory_limit_bytes,
        spare_ready=spare is not None and bool(spare["warm"]),
        models=tuple(_model(records[name], pool, workers, meters.of(name)) for name in sorted(records)),
    )


def _model(
    record: ModelRecord, pool: Pool, workers: Mapping[str, Worker], meter: ModelMeter
) -> ModelMeasures:
    present = [workers[worker_id] for worker_id in record.worker_ids if worker_id in workers]
    stats = [worker.vitals.stats for worker in present]
    has_process = bool(record.worker_ids)
    return ModelMeasures(
        name=record.name,
        state=record.state,
        pinned=record.pinned,
        in_flight=record.in_flight + sum(record.leaving.values()),
        queued=pool.queued_requests(record.name),
        processes=len(present),
        restarts=record.restarts,
        crashes=record.crashes,
        memory_bytes=sum(process_bytes(worker.vitals.pid) for worker in present),
        reserved_bytes=record.view(0).held_bytes,
        share_bytes=record.share_bytes if has_process else 0,
        mlx_active_bytes=sum(one.active_bytes for one in stats),
        mlx_cached_bytes=sum(one.cached_bytes for one in stats),
        cache_entries=sum(one.cache.entries for one in stats),
        cache_bytes=sum(one.cache.bytes for one in stats),
        cache_limit_bytes=record.cache_bytes if has_process else 0,
        tokens_per_s=sum(worker.vitals.tokens_per_s for worker in present),
        meter=meter.copy(),
    )
