"""GET /health and GET /ready"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from mlxk.api.answers import Health, Readiness
from mlxk.api.errors import SHUTDOWN_FAULT, error_response, fault_response
from mlxk.api.examples import HEALTHY, READY
from mlxk.api.facade import Service
from mlxk.api.openapi import error_responses, json_answer

_HEALTHY = b'{"status":"ok"}'
_READY = b'{"status":"ready"}'


def health_router(service: Service) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/health", response_class=Response, responses=json_answer(Health, HEALTHY))
    async def get_health() -> Response:
        """The process lives. Constant time: asks nobody."""
        return Response(_HEALTHY, media_type="application/json")

    @router.get(
        "/ready",
        response_class=Response,
        responses={**json_answer(Readiness, READY), **error_responses(503)},
    )
    async def get_ready() -> Response:
        """200 when the server takes work, 503 while it starts or closes."""
        if service.is_closing():
            return fault_response(SHUTDOWN_FAULT)
        if not service.is_ready():
            return error_response(503, "starting", "The server is starting.", headers={"Retry-After": "1"})
        return Response(_READY, media_type="application/json")

    return router
