"""POST /v1/chat/completions"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from mlxk.api.answers import ChatCompletion, ChatCompletionChunk
from mlxk.api.body import read_json
from mlxk.api.examples import CHAT
from mlxk.api.facade import Service
from mlxk.api.openapi import completion_answer, error_responses, json_body
from mlxk.api.replies import answer
from mlxk.api.translate import plan_chat


def chat_router(service: Service) -> APIRouter:
    router = APIRouter(tags=["completions"])

    @router.post(
        "/v1/chat/completions",
        response_class=Response,
        openapi_extra=json_body("ChatRequest", CHAT),
        responses={
            **completion_answer(ChatCompletion, ChatCompletionChunk, CHAT),
            **error_responses(400, 404, 413, 429, 500, 503),
        },
    )
    async def create_chat_completion(request: Request) -> Response:
        """A chat completion, or with `stream` its server-sent events."""
        plan = plan_chat(await read_json(request), service.settings)
        return await answer(request, service, plan)

    return router
