"""A whole, not streamed answer: collected, then sent as one JSON object."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from mlxk.api.choices import Choices
from mlxk.api.disconnects import run_unless_gone
from mlxk.api.facade import Service
from mlxk.api.logprobs import TextLogprobs, chat_logprobs
from mlxk.api.records import RequestRecord, record_of
from mlxk.api.sse import SYSTEM_FINGERPRINT, tool_call_json
from mlxk.api.streaming import StreamReply
from mlxk.api.translate import Plan, ReplyKind
from mlxk.api.usage import note_finish, total_usage, usage_json
from mlxk.workers.protocol import Delta, Failed, FaultError, Finished, RequestEvent, TokenLogprob, ToolCall


async def answer(request: Request, service: Service, plan: Plan) -> Response:
    """The answer to a plan, streamed or whole. Raises FaultError, and ClientGoneError for a whole one."""
    if plan.stream:
        return StreamReply(service, plan)
    body = await run_unless_gone(request.receive, _collect(service, plan, record_of(request.scope)))
    return Response(body, media_type="application/json")


async def _collect(service: Service, plan: Plan, record: RequestRecord) -> bytes:
    async with Choices(service, plan, record) as choices:
        collector = Collector(plan, choices.model, int(time.time()))
        collector.add(await choices.all())
    note_finish(record, collector.finished)
    return msgspec.json.encode(collector.reply())


class Collector:
    """The whole answer in the making: `add` its events, then `reply`."""

    def __init__(self, plan: Plan, model: str, created: int) -> None:
        self._plan = plan
        self._model = model
        self._created = created
        self._choices = [_Choice(generate.logprobs) for generate in plan.generates]

    @property
    def done(self) -> bool:
        return all(choice.end is not None for choice in self._choices)

    @property
    def finished(self) -> list[Finished]:
        return [choice.end for choice in self._choices if choice.end is not None]

    def usage(self) -> Any:
        return total_usage([end.usage for end in self.finished], self._plan.n)

    def add(self, batch: list[tuple[int, list[RequestEvent]]]) -> None:
        """Raises FaultError when a choice failed: an answer is whole or an error."""
        for index, events in batch:
            for event in events:
                if isinstance(event, Failed):
                    raise FaultError(event.fault)
                self._choices[index].add(event)

    def reply(self) -> dict[str, Any]:
        is_chat = self._plan.kind is ReplyKind.CHAT
        return {
            "id": f"{self._plan.kind.value}-{self._plan.id}",
            "object": "chat.completion" if is_chat else "text_completion",
            "created": self._created,
            "model": self._model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
            "choices": [
                choice.chat_json(index) if is_chat else choice.text_json(index)
                for index, choice in enumerate(self._choices)
            ],
            "usage": usage_json(self.usage()),
        }


class _Choice:
    def __init__(self, n_top: int | None) -> None:
        """`n_top`: `Generate.logprobs` of the choice."""
        self._n_top = n_top
        self._logprobs: list[TokenLogprob] = []
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._text: list[str] = []
        self._tool_calls: list[ToolCall] = []
        self.end: Finished | None = None

    def add(self, event: RequestEvent) -> None:
        if isinstance(event, Delta):
            self._content.append(event.content)
            self._reasoning.append(event.reasoning)
            self._text.append(event.reasoning + event.content)
            self._tool_calls += event.tool_calls
            self._logprobs += event.logprobs
        elif isinstance(event, Finished):
            self.end = event

    def chat_json(self, index: int) -> dict[str, Any]:
        content = "".join(self._content)
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if self._tool_calls and not content:
            message["content"] = None
        if reasoning := "".join(self._reasoning):
            message["reasoning_content"] = reasoning
        if self._tool_calls:
            message["tool_calls"] = [tool_call_json(call) for call in self._tool_calls]
        logprobs = None if self._n_top is None else chat_logprobs(self._logprobs)
        return {"index": index, "message": message, "logprobs": logprobs, **self._ending()}

    def text_json(self, index: int) -> dict[str, Any]:
        logprobs = None if self._n_top is None else TextLogprobs(self._n_top).json(self._logprobs)
        return {"index": index, "text": "".join(self._text), "logprobs": logprobs, **self._ending()}

    def _ending(self) -> dict[str, Any]:
        assert self.end is not None
        ending: dict[str, Any] = {"finish_reason": self.end.reason.value}
        if self.end.matched_stop is not None:
            ending["matched_stop"] = self.end.matched_stop
        return ending
