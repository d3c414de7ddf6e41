"""One model as `mlxk ps --json` and `GET /pool` show it."""

from __future__ import annotations

import time
from typing import Any

from mlxk.supervisor.memory import process_bytes
from mlxk.supervisor.records import ModelRecord
from mlxk.supervisor.states import ModelState
from mlxk.supervisor.worker import Worker
from mlxk.workers.protocol import CacheStats, WorkerStats


def model_data(record: ModelRecord, worker: Worker | None, queued: int) -> dict[str, Any]:
    """`worker`: the present one, as it was last seen."""
    stats = worker.vitals.stats if worker else WorkerStats()
    cache: CacheStats = stats.cache
    now = time.monotonic()
    return {
        "name": record.name,
        "id": record.ref.id,
        "state": record.state.value,
        "pid": worker.vitals.pid if worker else None,
        "worker": record.worker_id,
        "size_bytes": record.ref.size_bytes,
        "memory_bytes": process_bytes(worker.vitals.pid) if worker else 0,
        "cache": {
            "entries": cache.entries,
            "bytes": cache.bytes,
            "hits": cache.hits,
            "misses": cache.misses,
            "reused_tokens": cache.reused_tokens,
        },
        "in_flight": record.in_flight + sum(record.leaving.values()),
        "queued": queued,
        "tokens_per_s": round(worker.vitals.tokens_per_s, 1) if worker else 0.0,
        "until": _until(record, now),
        "uptime_s": round(now - (record.ready_at if record.loaded else worker.vitals.started_at), 1)
        if worker
        else 0.0,
        "load_progress": worker.vitals.load_progress if worker else None,
        "restarts": record.restarts,
        "crashes": record.crashes,
        "pinned": record.pinned,
        "last_error": record.last_error,
    }


def _until(record: ModelRecord, now: float) -> float | None:
    """Seconds until an idle model is let go; -1 for never, None while it is not idle."""
    if record.state is not ModelState.READY or record.in_flight:
        return None
    if record.pinned or record.keep_alive_s < 0:
        return -1
    return round(max(0.0, record.last_used + record.keep_alive_s - now), 1)
