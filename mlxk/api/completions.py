"""POST /v1/completions"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from mlxk.api.answers import TextCompletion, TextCompletionChunk
from mlxk.api.body import read_json
from mlxk.api.examples import COMPLETION
from mlxk.api.facade import Service
from mlxk.api.long_prompts import refuse_hopeless_ids
from mlxk.api.openapi import completion_answer, error_responses, json_body
from mlxk.api.replies import answer
from mlxk.api.translate import plan_completion


def completions_router(service: Service) -> APIRouter:
    router = APIRouter(tags=["completions"])

    @router.post(
        "/v1/completions",
        response_class=Response,
        openapi_extra=json_body("CompletionRequest", COMPLETION),
        responses={
            **completion_answer(TextCompletion, TextCompletionChunk, COMPLETION),
            **error_responses(400, 404, 413, 429, 500, 503),
        },
    )
    async def create_completion(request: Request) -> Response:
        """A text completion, or with `stream` its server-sent events."""
        await refuse_hopeless_ids(await request.body(), service)
        plan = plan_completion(await read_json(request), service.settings)
        return await answer(request, service, plan)

    return router
