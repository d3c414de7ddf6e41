"""POST /tokenize and POST /detokenize, in vLLM's shapes. The tokenizer lives in the model's worker."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from mlxk.api.answers import Detokenization, Tokenization
from mlxk.api.body import check_text, parse_object
from mlxk.api.disconnects import run_unless_gone
from mlxk.api.errors import error_response
from mlxk.api.examples import DETOKENIZE, TOKENIZE
from mlxk.api.facade import Service
from mlxk.api.messages import template_messages
from mlxk.api.openapi import error_responses, json_answer, json_body
from mlxk.api.records import CLIENT_GONE, RequestRecord, new_request_id, record_of
from mlxk.api.schemas import DetokenizeRequest, TokenizeRequest
from mlxk.api.translate import (
    keep_alive_seconds,
    refuse_endless_conversation,
    shown_tools,
    template_arguments,
)
from mlxk.api.unsupported import refuse_unsupported, unsupported
from mlxk.api.validation import are_ids, parse
from mlxk.workers.protocol import (
    Detokenize,
    Detokenized,
    Failed,
    FaultCode,
    FaultError,
    Tokenize,
    Tokenized,
    fault,
)

MAX_BODY_BYTES = 4 * 1024 * 1024
"""More text than any context holds. A tokenizer takes seconds for it, and for a part of them it keeps
Python's lock from the thread that makes the other requests' tokens: one stream fell silent for 1 s with
4 MiB, and for 5 s with 16 MiB of token ids."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "continue_final_message": (False,),
    "chat_template": (),
    "documents": ([],),
    "mm_processor_kwargs": (),
}
"""vLLM's, of which ours knows nothing: with the values that ask for nothing."""


def plan_tokenize(body: dict[str, Any], request_id: str) -> tuple[TokenizeRequest, Tokenize]:
    """Raises FaultError for whatever can be told without the model."""
    refuse_unsupported(body, _NEUTRAL)
    refuse_endless_conversation(body)
    request = parse(TokenizeRequest, body)
    check_text(request.model, "model")
    return_names = bool(request.return_token_strs)
    if request.messages is None:
        if request.prompt is None:
            message = "Send 'prompt' (a text) or 'messages' (a conversation)."
            raise fault(FaultCode.INVALID_REQUEST, message, param="prompt")
        prompt = check_text(request.prompt, "prompt")
        add_special = request.add_special_tokens is not False
        return request, Tokenize(
            request_id, prompt=prompt, add_special_tokens=add_special, return_token_strs=return_names
        )
    if request.prompt is not None:
        message = "Send 'prompt' or 'messages', not both: which of them should be counted?"
        raise fault(FaultCode.INVALID_REQUEST, message, param="prompt")
    if request.add_special_tokens:
        message = "'add_special_tokens' goes with 'prompt' only: a chat template writes its own."
        raise unsupported("add_special_tokens", message)
    return request, Tokenize(
        request_id,
        messages=template_messages(request.messages),
        tools=shown_tools(request, body),
        template_kwargs=template_arguments(request),
        add_generation_prompt=request.add_generation_prompt is not False,
        return_token_strs=return_names,
    )


def tokenize_router(service: Service) -> APIRouter:
    router = APIRouter(tags=["tokens"])

    @router.post(
        "/tokenize",
        response_class=Response,
        openapi_extra=json_body("TokenizeRequest", TOKENIZE),
        responses={**json_answer(Tokenization, TOKENIZE), **error_responses(400, 404, 413, 429, 500, 503)},
    )
    async def tokenize(request: Request) -> Response:
        """The tokens of a text, or of a conversation as the model's chat template writes it: exactly those
        that a completion of the same prompt would count as `usage.prompt_tokens`. Loads the model if it must.
        """
        record = record_of(request.scope)
        raw = await request.body()
        if len(raw) > MAX_BODY_BYTES:
            return _too_large()
        asked, work = plan_tokenize(parse_object(raw), new_request_id())
        keep_alive_s = keep_alive_seconds(asked.keep_alive)
        answer = await run_unless_gone(
            request.receive, _ask(service, asked.model, work, keep_alive_s, record)
        )
        assert isinstance(answer, Tokenized)
        record.prompt_tokens = len(answer.tokens)
        found: dict[str, Any] = {
            "tokens": answer.tokens,
            "count": len(answer.tokens),
            "max_model_len": answer.context_length,
        }
        if answer.token_strs is not None:
            found["token_strs"] = answer.token_strs
        return Response(msgspec.json.encode(found), media_type="application/json")

    @router.post(
        "/detokenize",
        response_class=Response,
        openapi_extra=json_body("DetokenizeRequest", DETOKENIZE),
        responses={
            **json_answer(Detokenization, DETOKENIZE),
            **error_responses(400, 404, 413, 429, 500, 503),
        },
    )
    async def detokenize(request: Request) -> Response:
        """The text of token ids, special tokens included. Bytes that make no whole character become U+FFFD.
        Loads the model if it must."""
        record = record_of(request.scope)
        raw = await request.body()
        if len(raw) > MAX_BODY_BYTES:
            return _too_large()
        body = parse_object(raw)
        tokens = body.get("tokens")
        if are_ids(tokens):
            body["tokens"] = []  # the schema takes five times as long to look at them
        asked = parse(DetokenizeRequest, body)
        tokens = tokens or asked.tokens
        check_text(asked.model, "model")
        keep_alive_s = keep_alive_seconds(asked.keep_alive)
        work = Detokenize(new_request_id(), tokens)
        answer = await run_unless_gone(
            request.receive, _ask(service, asked.model, work, keep_alive_s, record)
        )
        assert isinstance(answer, Detokenized)
        record.prompt_tokens = len(tokens)
        return Response(msgspec.json.encode({"prompt": answer.text}), media_type="application/json")

    return router


def _too_large() -> Response:
    message = f"The request body is over {MAX_BODY_BYTES} bytes. Send the text in parts."
    return error_response(413, "request_too_large", message)


async def _ask(
    service: Service,
    model: str,
    work: Tokenize | Detokenize,
    keep_alive_s: float | None,
    record: RequestRecord,
) -> Tokenized | Detokenized:
    """Raises FaultError. Closes the job, whatever happens: a client that leaves, a shutdown."""
    job = await service.submit(model, work, keep_alive_s=keep_alive_s)
    record.model = job.model
    limit_s = service.settings.request_timeout_s
    cause = CLIENT_GONE
    try:
        while True:
            left_s = record.started_at + limit_s - time.monotonic() if limit_s > 0 else None
            if left_s is not None and left_s <= 0:
                cause = FaultCode.DEADLINE_EXCEEDED.value
                message = f"The request was not finished within {limit_s:g} s (request_timeout)."
                raise fault(FaultCode.DEADLINE_EXCEEDED, message, retryable=True)
            for event in await job.next(left_s):
                if isinstance(event, Failed):
                    raise FaultError(event.fault)
                if isinstance(event, Tokenized | Detokenized):
                    return event
    finally:
        job.close(cause)
        record.worker = job.worker_id
