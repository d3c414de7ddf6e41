"""GET /pool, GET /pool/events, POST /pool/{model}/load, DELETE /pool/{model}: what is loaded, over HTTP."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from mlxk.api.answers import LoadResult, PoolFacts, StopReport
from mlxk.api.disconnects import run_unless_gone
from mlxk.api.events import DOCUMENT, EventReply
from mlxk.api.examples import LOADED, POOL, STOPPED
from mlxk.api.facade import Service
from mlxk.api.models import ModelPath
from mlxk.api.openapi import error_responses, json_answer

EVENT_NUMBER = re.compile(r"[0-9]{1,15}")


def pool_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/pool", tags=["pool"])

    @router.get("", response_class=JSONResponse, responses=json_answer(PoolFacts, POOL))
    async def get_pool() -> JSONResponse:
        """What is loaded, and who holds what: the `data` of `mlxk ps --json`."""
        return JSONResponse(await service.pool_data())

    @router.get("/events", response_class=Response, responses={**DOCUMENT, **error_responses(400)})
    async def get_events(
        recent: Annotated[int, Query(ge=0, le=256, description="So many past events come first.")] = 0,
        last_event_id: Annotated[
            str | None, Header(description="Number of the last event seen: those after it come first.")
        ] = None,
    ) -> EventReply:
        """What happens: changes of state, loads and their progress, evictions, crashes. Server-sent events,
        each a JSON object with `n`, `time` (Unix seconds), `kind` and facts."""
        after = int(last_event_id) if last_event_id and EVENT_NUMBER.fullmatch(last_event_id) else None
        return EventReply(service, recent=recent, after=after)

    @router.post(
        "/{model:path}/load",
        response_class=JSONResponse,
        responses={**json_answer(LoadResult, LOADED), **error_responses(400, 404, 429, 500, 503)},
    )
    async def load_model(model: ModelPath, request: Request) -> JSONResponse:
        """Loads a model and answers when it is ready. A client that leaves no longer waits for it."""
        return JSONResponse(await run_unless_gone(request.receive, service.load(model)))

    @router.delete(
        "/{model:path}",
        response_class=JSONResponse,
        responses={**json_answer(StopReport, STOPPED), **error_responses(400, 404)},
    )
    async def stop_model(
        model: ModelPath,
        now: Annotated[bool, Query(description="Interrupt what runs, instead of waiting for it.")] = False,
        timeout_s: Annotated[
            float | None, Query(ge=0, allow_inf_nan=False, description="How long to wait for what runs.")
        ] = None,
    ) -> JSONResponse:
        """Stops a model and answers when its process is gone. Goes on when the client leaves."""
        return JSONResponse(await service.stop_model(model, now=now, timeout_s=timeout_s))

    return router
