"""From a checked request to the `Generate`s that workers understand: one for each choice of the answer."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mlxk.api.body import check_free_form, check_text, is_encodable
from mlxk.api.messages import template_messages
from mlxk.api.schemas import (
    MAX_STOP_CHARS,
    AllowedToolsChoice,
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    NamedToolChoice,
    TokenizeRequest,
)
from mlxk.api.unsupported import (
    CHAT,
    COMPLETION,
    refuse_unsupported,
    unsupported,
)
from mlxk.api.validation import are_ids, parse
from mlxk.config.parsers import OWN_TEMPLATE_ARGUMENTS
from mlxk.config.settings import Settings
from mlxk.config.units import parse_duration_s
from mlxk.workers.protocol import FaultCode, FaultError, Generate, Sampling, fault

MAX_BIASES = 10_000
MAX_ENTRIES = 20_000
"""Of a conversation (messages, their parts and calls) and of `tools`. No context holds that many, and 200,000
took the event loop seconds."""
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

    @property
    def n_prompts(self) -> int:
        return len(self.generates) // self.n

    def prompt_of(self, index: int) -> int:
        """Which prompt the choice answers."""
        return index // self.n


def plan_chat(body: dict[str, Any], settings: Settings) -> Plan:
    """Raises FaultError for whatever can be told without the model."""
    refuse_unsupported(body, CHAT)
    _refuse_crowds(body)
    refuse_endless_conversation(body)
    request = parse(ChatRequest, body)
    source = {
        "messages": template_messages(request.messages),
        "tools": shown_tools(request, body),
        "template_kwargs": template_arguments(request),
        "hidden_stop": list(settings.chat_stop_strings),
        "logprobs": _chat_logprobs(request),
        "json_schema": _json_schema(request),
        "required_tools": _required_tools(request),
        "parallel_tool_calls": request.parallel_tool_calls is not False,
    }
    return _plan(ReplyKind.CHAT, request, [source])


def plan_completion(body: dict[str, Any], settings: Settings) -> Plan:
    """Raises FaultError for whatever can be told without the model."""
    refuse_unsupported(body, COMPLETION)
    _refuse_crowds(body)
    has_ids = bool(body.get("prompt")) and are_ids(body["prompt"])
    request = parse(CompletionRequest, {**body, "prompt": [0]} if has_ids else body)
    checked = _prompts(body["prompt"] if has_ids else request.prompt)
    sources = [{**source, "logprobs": request.logprobs} for source in checked]
    return _plan(ReplyKind.TEXT, request, sources)


def _refuse_crowds(body: dict[str, Any]) -> None:
    """What pydantic would take seconds for, in the event loop, only to be refused after."""
    prompt, bias = body.get("prompt"), body.get("logit_bias")
    if isinstance(prompt, list) and len(prompt) > MAX_CHOICES and isinstance(prompt[0], list | str):
        message = f"{len(prompt)} prompts are more than {MAX_CHOICES} choices: send fewer at once."
        raise fault(FaultCode.INVALID_REQUEST, message, param="prompt")
    if isinstance(bias, dict) and len(bias) > MAX_BIASES:
        message = f"'logit_bias' holds {len(bias)} tokens; {MAX_BIASES} are the most."
        raise fault(FaultCode.INVALID_REQUEST, message, param="logit_bias")


def refuse_endless_conversation(body: dict[str, Any]) -> None:
    """As above. Raises FaultError(INVALID_REQUEST)."""
    messages, tools = (_list(body.get(name)) for name in ("messages", "tools"))
    _refuse_many(len(messages), "messages", "messages")
    _refuse_many(len(tools), "tools", "tools")
    inner = [
        _list(one.get(key)) for one in messages if isinstance(one, dict) for key in ("content", "tool_calls")
    ]
    _refuse_many(sum(map(len, inner)), "messages", "parts and calls")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _refuse_many(count: int, param: str, what: str) -> None:
    if count > MAX_ENTRIES:
        message = f"'{param}' holds {count} {what}; {MAX_ENTRIES} are the most."
        raise fault(FaultCode.INVALID_REQUEST, message, param=param)


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
        keep_alive_s=keep_alive_seconds(request.keep_alive),
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
        seed=None if request.seed is None else _seed_of(request.seed, copy),
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=_logit_bias(request.logit_bias),
    )


def _seed_of(seed: int, copy: int) -> int:
    """The n answers to one prompt differ, stay the same for the same seed, and are not those of the next
    seed. The first is that of `n: 1`."""
    if copy == 0:
        return seed
    digest = hashlib.blake2b(b"%d:%d" % (seed, copy), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _SEED_RANGE


def _stop(stop: str | list[str] | None) -> list[str]:
    strings = [stop] if isinstance(stop, str) else stop or []
    for string in strings:
        if not string:
            raise _bad_stop("An empty stop string cannot be honoured: it would match everywhere.")
        if len(string) > MAX_STOP_CHARS:
            text = (
                f"A stop string of {len(string)} characters cannot be honoured: up to {MAX_STOP_CHARS} are."
            )
            raise _bad_stop(text)
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


def keep_alive_seconds(keep_alive: str | int | float | None) -> float | None:
    if keep_alive is None:
        return None
    try:
        return parse_duration_s(keep_alive)
    except ValueError as error:
        raise fault(FaultCode.INVALID_REQUEST, f"'keep_alive': {error}.", param="keep_alive") from None


# ---------------------------------------------------------------------------- chat


def shown_tools(request: ChatRequest | TokenizeRequest, body: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The tools as they were sent: a template prints them whole, with keys that the schema does not know."""
    if not request.tools or request.tool_choice == "none":
        return None
    tools: list[dict[str, Any]] = body["tools"]
    for index, tool in enumerate(tools):
        check_free_form(tool, f"tools[{index}]")
    if isinstance(request.tool_choice, AllowedToolsChoice):
        allowed = _allowed_names(request, request.tool_choice)
        return [tool for tool in tools if tool["function"]["name"] in allowed]
    return tools


def _required_tools(request: ChatRequest) -> list[str]:
    choice = request.tool_choice
    if choice in (None, "none", "auto"):
        return []
    if isinstance(choice, AllowedToolsChoice):
        return _allowed_names(request, choice) if choice.allowed_tools.mode == "required" else []
    if isinstance(choice, NamedToolChoice):
        return [_offered(request, choice, "tool_choice")]
    return _names(request, "tool_choice")


def _names(request: ChatRequest | TokenizeRequest, param: str) -> list[str]:
    names = [tool.function.name for tool in request.tools or ()]
    if not names:
        message = "'tool_choice' asks for a call, and there are no 'tools'."
        raise fault(FaultCode.INVALID_REQUEST, message, param=param)
    return list(dict.fromkeys(names))


def _offered(request: ChatRequest | TokenizeRequest, choice: NamedToolChoice, param: str) -> str:
    name = choice.function.name
    if name not in _names(request, param):
        message = f"'{param}' names {name[:80]!r}, which is not among the 'tools'."
        raise fault(FaultCode.INVALID_REQUEST, message, param=param)
    return name


def _allowed_names(request: ChatRequest | TokenizeRequest, choice: AllowedToolsChoice) -> list[str]:
    named = enumerate(choice.allowed_tools.tools)
    return [_offered(request, tool, f"tool_choice.allowed_tools.tools[{n}]") for n, tool in named]


def _json_schema(request: ChatRequest) -> dict[str, Any] | None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.json_schema is None:
        message = "'response_format.json_schema' is required."
        raise fault(FaultCode.INVALID_REQUEST, message, param="response_format.json_schema")
    schema = wanted.json_schema.schema_
    if schema is None:
        return {"type": "object"}
    check_free_form(schema, "response_format.json_schema.schema")
    return schema


def _chat_logprobs(request: ChatRequest) -> int | None:
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        message = "'top_logprobs' goes with 'logprobs': true only."
        raise fault(FaultCode.INVALID_REQUEST, message, param="top_logprobs")
    return None


def template_arguments(request: ChatRequest | TokenizeRequest) -> dict[str, Any]:
    kwargs: dict[str, Any] = {}
    if request.reasoning_effort == "none":
        kwargs["enable_thinking"] = False
    elif request.reasoning_effort is not None:
        kwargs["reasoning_effort"] = request.reasoning_effort
    for name, value in (request.chat_template_kwargs or {}).items():
        if name in OWN_TEMPLATE_ARGUMENTS:
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
