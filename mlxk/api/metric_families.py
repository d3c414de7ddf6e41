"""Every metric that there is: its name, type, labels and meaning, and where its value is in a snapshot.

`docs/metrics.md` says the same for people; a test compares the two. Units are seconds and bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from mlxk import __version__
from mlxk.api.http_meter import HttpMeter
from mlxk.supervisor.measures import ModelMeasures, PoolMeasures
from mlxk.supervisor.meters import Histogram, ModelMeter
from mlxk.supervisor.states import ModelState
from mlxk.workers.protocol import FaultCode, FinishReason

NATURAL_FINISHES = (FinishReason.STOP.value, FinishReason.LENGTH.value, FinishReason.TOOL_CALLS.value)
ABORT_CAUSES: Mapping[str, str] = {
    "client_gone": "client_gone",
    FaultCode.MODEL_STOPPED.value: "stop",
    FaultCode.SHUTTING_DOWN.value: "shutdown",
    FaultCode.DEADLINE_EXCEEDED.value: "deadline",
    FaultCode.WORKER_DIED.value: "crash",
    FaultCode.CANCELLED.value: "cancelled",
}
"""Of the finishes, those of generations that might have gone on."""
EVICTION_REASONS = ("room", "keep_alive", "abandoned")

Rows = Iterable[tuple[Sequence[str], float]]
HistogramRows = Iterable[tuple[Sequence[str], Histogram]]


@dataclass(frozen=True)
class Snapshot(Collector):
    """All that one answer of `GET /metrics` is made of: instead of a registry, which would outlive it."""

    pool: PoolMeasures
    http: HttpMeter
    engine: str

    def collect(self) -> Iterator[Metric]:
        yield from _server(self)
        yield from _http(self.http)
        yield from _models(self.pool.models)
        yield from _generations(self.pool.models)


def _server(snapshot: Snapshot) -> Iterator[Metric]:
    pool = snapshot.pool
    build = InfoMetricFamily("mlxk_build", "The server's version and the engine of its workers.")
    build.add_metric([], {"version": __version__, "engine": snapshot.engine})
    yield build
    yield _gauge("mlxk_start_time_seconds", "When the server began, in Unix time.", pool.began_at)
    yield _gauge("mlxk_uptime_seconds", "Since the server began.", pool.uptime_s)
    yield _counter(
        "mlxk_cpu_seconds_total", "CPU time of the server's own process (the front).", time.process_time()
    )
    yield _gauge("mlxk_memory_bytes", "Memory of the server's own process (the front).", pool.memory_bytes)
    yield _gauge("mlxk_memory_limit_bytes", "What all models may take together.", pool.memory_limit_bytes)
    yield _gauge("mlxk_spare_ready", "1 if a warm worker waits for the next load.", pool.spare_ready)


def _http(http: HttpMeter) -> Iterator[Metric]:
    yield _gauge("mlxk_http_connections", "Open connections.", http.count_connections())
    yield _gauge("mlxk_http_requests_in_flight", "Requests that are being answered.", http.in_flight)
    yield _counters(
        "mlxk_http_requests_total",
        "Answered requests. Status 499: the client left before it had an answer.",
        ("method", "route", "status"),
        [((method, route, str(status)), n) for (method, route, status), n in http.requests.items()],
    )
    yield _histogram(
        "mlxk_http_request_duration_seconds",
        "From a request's head to the end of its answer.",
        ("route",),
        [((route,), duration) for route, duration in http.duration_s.items()],
    )
    yield _counters(
        "mlxk_model_requests_total",
        "Answered requests for a model. Status 499: the client left before it had an answer.",
        ("model", "route", "status"),
        [((model, route, str(status)), n) for (model, route, status), n in http.model_requests.items()],
    )


def _models(models: Sequence[ModelMeasures]) -> Iterator[Metric]:
    yield _gauges(
        "mlxk_model_state",
        "1 for the state that the model is in, 0 for the others.",
        ("model", "state"),
        [((m.name, state.value), m.state is state) for m in models for state in ModelState],
    )
    for name, text, value in _MODEL_GAUGES:
        yield _gauges(name, text, ("model",), [((m.name,), value(m)) for m in models])
    for name, text, value in _MODEL_COUNTERS:
        yield _counters(name, text, ("model",), [((m.name,), value(m)) for m in models])
    yield _counters(
        "mlxk_model_evictions_total",
        "Unloaded by the server's own decision.",
        ("model", "reason"),
        [((m.name, reason), m.meter.evictions[reason]) for m in models for reason in EVICTION_REASONS],
    )
    yield _histogram(
        "mlxk_model_load_seconds",
        "Loads that succeeded, as their workers measured them (without a process's start).",
        ("model",),
        [((m.name,), m.meter.load_s) for m in models],
    )


_MODEL_GAUGES: tuple[tuple[str, str, Callable[[ModelMeasures], float]], ...] = (
    ("mlxk_model_pinned", "1 if the model is never evicted.", lambda m: m.pinned),
    ("mlxk_model_processes", "Worker processes of the model.", lambda m: m.processes),
    ("mlxk_model_in_flight", "Requests that its worker works on.", lambda m: m.in_flight),
    ("mlxk_model_queue_depth", "Requests that wait for the model.", lambda m: m.queued),
    ("mlxk_model_memory_bytes", "Memory of its worker processes.", lambda m: m.memory_bytes),
    (
        "mlxk_model_memory_reserved_bytes",
        "What the model counts for within mlxk_memory_limit_bytes.",
        lambda m: m.reserved_bytes,
    ),
    (
        "mlxk_model_memory_limit_bytes",
        "The share of the machine that its worker was told to keep to.",
        lambda m: m.share_bytes,
    ),
    ("mlxk_model_mlx_active_bytes", "Memory of MLX's live arrays.", lambda m: m.mlx_active_bytes),
    ("mlxk_model_mlx_cached_bytes", "Memory that MLX keeps for reuse.", lambda m: m.mlx_cached_bytes),
    ("mlxk_model_cache_entries", "Entries of its prefix cache.", lambda m: m.cache_entries),
    ("mlxk_model_cache_bytes", "Size of its prefix cache.", lambda m: m.cache_bytes),
    ("mlxk_model_cache_limit_bytes", "What its prefix cache may hold.", lambda m: m.cache_limit_bytes),
)
_MODEL_COUNTERS: tuple[tuple[str, str, Callable[[ModelMeasures], float]], ...] = (
    ("mlxk_model_restarts_total", "Loads that followed a crash or a restart.", lambda m: m.restarts),
    (
        "mlxk_model_crashes_total",
        "Workers that died or were ended because they failed, loads included.",
        lambda m: m.crashes,
    ),
    (
        "mlxk_model_cache_trims_total",
        "Orders to an idle model to make its prefix cache smaller.",
        lambda m: m.meter.cache_trims,
    ),
)


def _generations(models: Sequence[ModelMeasures]) -> Iterator[Metric]:
    for name, text, value in _GENERATION_COUNTERS:
        yield _counters(name, text, ("model",), [((m.name,), value(m.meter)) for m in models])
    yield _counters(
        "mlxk_generations_total",
        "Ended generations (choices of answers) by finish reason, error code, or client_gone.",
        ("model", "finish"),
        [((m.name, finish), n) for m in models for finish, n in _finishes(m.meter).items()],
    )
    yield _counters(
        "mlxk_aborts_total",
        "Of the ended generations, those that were cut short or left while they waited.",
        ("model", "cause"),
        [
            ((m.name, cause), m.meter.finishes[finish])
            for m in models
            for finish, cause in ABORT_CAUSES.items()
        ],
    )
    for name, text, histogram in _GENERATION_HISTOGRAMS:
        yield _histogram(name, text, ("model",), [((m.name,), histogram(m.meter)) for m in models])


_GENERATION_COUNTERS: tuple[tuple[str, str, Callable[[ModelMeter], float]], ...] = (
    (
        "mlxk_prompt_tokens_total",
        "Prompt tokens, those from the prefix cache included.",
        lambda meter: meter.prompt_tokens,
    ),
    (
        "mlxk_prompt_cached_tokens_total",
        "Prompt tokens that the prefix cache had (reused).",
        lambda meter: meter.cached_tokens,
    ),
    ("mlxk_generated_tokens_total", "Generated tokens.", lambda meter: meter.generated_tokens),
    ("mlxk_cache_hits_total", "Prompts with something in the prefix cache.", lambda meter: meter.cache_hits),
    ("mlxk_cache_misses_total", "Prompts with nothing in it.", lambda meter: meter.cache_misses),
)
_GENERATION_HISTOGRAMS: tuple[tuple[str, str, Callable[[ModelMeter], Histogram]], ...] = (
    (
        "mlxk_queue_wait_seconds",
        "From a request's arrival until a worker has it, a load included.",
        lambda meter: meter.queue_s,
    ),
    (
        "mlxk_time_to_first_token_seconds",
        "From a request's arrival to its first token.",
        lambda meter: meter.ttft_s,
    ),
    ("mlxk_inter_token_seconds", "From one token to the next.", lambda meter: meter.inter_token_s),
)


def _finishes(meter: ModelMeter) -> dict[str, int]:
    """The natural ones from the beginning, the others when they have happened."""
    return {**dict.fromkeys(NATURAL_FINISHES, 0), **meter.finishes}


# ---------------------------------------------------------------------------- building blocks


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _gauges(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), rows)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), rows)


def _filled(family: Any, rows: Rows) -> Metric:
    for values, number in rows:
        family.add_metric(values, number)
    assert isinstance(family, Metric)
    return family


def _histogram(name: str, text: str, labels: Sequence[str], rows: HistogramRows) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in rows:
        bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        family.add_metric(values, buckets, histogram.sum)
    return family
