"""GET /metrics, for Prometheus: in its text format, or in OpenMetrics for a scraper that asks for that."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import exposition
from prometheus_client.openmetrics import exposition as openmetrics
from starlette.datastructures import Headers

from mlxk.api.facade import Service
from mlxk.api.http_meter import HttpMeter
from mlxk.api.metric_families import Snapshot

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_GZIP_FROM_BYTES = 1024
_EXAMPLE = (
    "# HELP mlxk_model_in_flight Requests that its worker works on.\n"
    "# TYPE mlxk_model_in_flight gauge\n"
    'mlxk_model_in_flight{model="tiny"} 2.0\n'
)
_DOCUMENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "All metrics; `docs/metrics.md` explains them.",
        "content": {
            "text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE},
            "application/openmetrics-text": {"schema": {"type": "string"}},
        },
    }
}


def metrics_router(service: Service, meter: HttpMeter) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/metrics", response_class=Response, responses=_DOCUMENT)
    async def get_metrics(request: Request) -> Response:
        """Metrics in Prometheus' text format, or in OpenMetrics if the Accept header names it."""
        snapshot = Snapshot(await service.measures(), meter.copy(), service.settings.engine)
        # Milliseconds with many models: no token waits for it.
        return await asyncio.to_thread(_answer, snapshot, request.headers)

    return router


def _answer(snapshot: Snapshot, headers: Headers) -> Response:
    if _accepts(headers, "accept", "application/openmetrics-text"):
        body, content_type = openmetrics.generate_latest(snapshot), OPENMETRICS  # type: ignore[no-untyped-call]
    else:
        body, content_type = exposition.generate_latest(snapshot), TEXT
    answer_headers = {
        "Content-Type": content_type,
        "Vary": "Accept, Accept-Encoding",
        "Cache-Control": "no-store",
    }
    if len(body) >= _GZIP_FROM_BYTES and _accepts(headers, "accept-encoding", "gzip"):
        body = gzip.compress(body, compresslevel=1)
        answer_headers["Content-Encoding"] = "gzip"
    return Response(body, headers=answer_headers)


def _accepts(headers: Headers, name: str, wanted: str) -> bool:
    """Whether it is named with a weight that is not 0. (The library's own chooser fails on a version that is
    none, and sends back what the client wrote.)"""
    for offer in ",".join(headers.getlist(name)).split(","):
        kind, *parameters = (part.strip().lower() for part in offer.split(";"))
        if kind == wanted:
            return not any(one.replace(" ", "").rstrip("0") in ("q=", "q=0.") for one in parameters)
    return False
