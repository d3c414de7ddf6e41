"""From a checked request to the `Generate`s that workers understand: one for each choice of the answer."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mlxk.api.body import check_free_form, check_text, is_encodable
from mlxk.api.messages import template_messages
from mlxk.api.schemas import ChatRequest, CompletionRequest, GenerationRequest, parse
from mlxk.api.unsupported import (
    CHAT,
    COMPLETION,
    TEMPLATE_KWARGS_OF_OURS,
    refuse_unsupported,
    unsupported,
)
from mlxk.config.settings import Settings
from mlxk.config.units import parse_duration_s
from mlxk.workers.protocol import FaultCode, FaultError, Generate, Sampling, fault

MAX_CHOICES = 64
"""Prompts times `n`: as many as one worker decodes at once."""
_MAX_TOKENS = 2**31 - 1
_SEED_RANGE = 2**63


class ReplyKind(Enum):
    CHAT = "chatcmpl"
    TEXT = "cmpl"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one HTTP request asks for."""

    kind: ReplyKind
    model: str
    """As the client wrote it; the answer carries the canonical name."""
    generates: tuple[Generate, ...]
    """In the order of the choices: prompt by prompt, `n` of each."""
    n: int
    keep_alive_s: float | None
    stream: bool
    include_usage: bool
    id: str

    def prompt_of(self, index: int) -> int:
        """Which prompt the choice answers."""
        return index // self.n


def plan_chat(body: dict[str, Any], settings: Settings) -> Plan:
    """Raises FaultError for whatever can be told without the model."""
    refuse_unsupported(body, CHAT)
    request = parse(ChatRequest, body)
    source = {
        "messages": template_messages(request.messages),
        "tools": _tools(request, body),
        "template_kwargs": _template_kwargs(request),
        "hidden_stop": list(settings.chat_stop_strings),
    }
    return _plan(ReplyKind.CHAT, request, [source])


def plan_completion(body: dict[str, Any], settings: Settings) -> Plan:
    """Raises FaultError for whatever can be told without the model."""
    refuse_unsupported(body, COMPLETION)
    request = parse(CompletionRequest, body)
    return _plan(ReplyKind.TEXT, request, _prompts(request.prompt))


def _plan(kind: ReplyKind, request: GenerationRequest, sources: list[dict[str, Any]]) -> Plan:
    check_text(request.model, "model")
    stream = bool(request.stream)
    if request.stream_options is not None and not stream:
        message = "'stream_options' goes with 'stream': true only."
        raise fault(FaultCode.INVALID_REQUEST, message, param="stream_options")
    n = request.n or 1
    if len(sources) * n > MAX_CHOICES:
        message = (
            f"{len(sources)} prompts times n={n} are more than {MAX_CHOICES} choices: send fewer at once."
        )
        raise fault(FaultCode.INVALID_REQUEST, message, param="prompt" if len(sources) > 1 else "n")
    plan_id = secrets.token_hex(8)
    shared = _shared(request)
    generates: list[Generate] = []
    for source in sources:
        for copy in range(n):
            suffix = f"-{len(generates)}" if generates else ""
            sampling = _sampling(request, copy)
            generates.append(Generate(id=plan_id + suffix, sampling=sampling, **source, **shared))
    return Plan(
        kind=kind,
        model=request.model,
        generates=tuple(generates),
        n=n,
        keep_alive_s=_keep_alive_s(request.keep_alive),
        stream=stream,
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        id=plan_id,
    )


def _shared(request: GenerationRequest) -> dict[str, Any]:
    """The fields of `Generate` that all choices have alike."""
    shared: dict[str, Any] = {
        "stop": _stop(request.stop),
        "stop_token_ids": request.stop_token_ids or [],
        "ignore_eos": bool(request.ignore_eos),
    }
    max_tokens = request.max_completion_tokens or request.max_tokens
    if max_tokens is not None:
        shared["max_tokens"] = min(max_tokens, _MAX_TOKENS)
    if request.context_share is not None:
        shared["context_share"] = request.context_share
    return shared


def _sampling(request: GenerationRequest, copy: int) -> Sampling:
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        # The n answers to one prompt must differ, and stay the same for the same seed.
        seed=None if request.seed is None else (request.seed + copy) % _SEED_RANGE,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=_logit_bias(request.logit_bias),
    )


def _stop(stop: str | list[str] | None) -> list[str]:
    strings = [stop] if isinstance(stop, str) else stop or []
    for string in strings:
        if not string:
            raise _bad_stop("An empty stop string cannot be honoured: it would match everywhere.")
        if not is_encodable(string):
            raise _bad_stop("A stop string with a lone surrogate cannot be honoured: no text can contain it.")
    return strings


def _bad_stop(message: str) -> FaultError:
    return fault(FaultCode.UNSUPPORTED_STOP_STRING, message, param="stop")


def _logit_bias(bias: dict[str, float] | None) -> dict[int, float] | None:
    if not bias:
        return None
    for key in bias:
        # isdecimal alone would take digits of other scripts, and more of them than a token id has.
        if not (key.isascii() and key.isdecimal() and len(key) <= 10):
            message = "The keys of 'logit_bias' are token ids, such as \"1734\"."
            raise fault(FaultCode.INVALID_REQUEST, message, param="logit_bias")
    return {int(key): value for key, value in bias.items()}


def _keep_alive_s(keep_alive: str | int | float | None) -> float | None:
    if keep_alive is None:
        return None
    try:
        return parse_duration_s(keep_alive)
    except ValueError as error:
        raise fault(FaultCode.INVALID_REQUEST, f"'keep_alive': {error}.", param="keep_alive") from None


# ---------------------------------------------------------------------------- chat


def _tools(request: ChatRequest, body: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The tools as they were sent: a template prints them whole, with keys that the schema does not know."""
    if not request.tools or request.tool_choice == "none":
        return None
    tools: list[dict[str, Any]] = body["tools"]
    for index, tool in enumerate(tools):
        if tool["function"].get("strict") is True:
            raise unsupported(f"tools[{index}].function.strict")
        check_free_form(tool, f"tools[{index}]")
    return tools


def _template_kwargs(request: ChatRequest) -> dict[str, Any]:
    kwargs: dict[str, Any] = {}
    if request.reasoning_effort == "none":
        kwargs["enable_thinking"] = False
    elif request.reasoning_effort is not None:
        kwargs["reasoning_effort"] = request.reasoning_effort
    for name, value in (request.chat_template_kwargs or {}).items():
        if name in TEMPLATE_KWARGS_OF_OURS:
            raise unsupported(f"chat_template_kwargs.{name}")
        check_free_form({name: value}, "chat_template_kwargs")
        kwargs[name] = value
    return kwargs


# ---------------------------------------------------------------------------- text


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"prompt": check_text(prompt, "prompt")}]
    if not prompt:
        raise fault(FaultCode.INVALID_REQUEST, "'prompt' must not be an empty list.", param="prompt")
    if isinstance(prompt[0], int):
        return [{"tokens": prompt}]
    prompts: list[dict[str, Any]] = []
    for index, one in enumerate(prompt):
        param = f"prompt[{index}]"
        if isinstance(one, str):
            prompts.append({"prompt": check_text(one, param)})
        elif one:
            prompts.append({"tokens": one})
        else:
            raise fault(FaultCode.INVALID_REQUEST, f"'{param}' must hold at least one token.", param=param)
    return prompts
