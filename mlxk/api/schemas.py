"""The bodies that clients send, as pydantic models: types, ranges, and the words for what is wrong.

Strict: `"5"` is no number and `true` is no integer, because a client that sends those means something
else. Unknown fields are ignored, null means absent. Known fields that cannot be honoured are refused
before (`unsupported.py`); what a schema cannot say is checked after (`translate.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlxk.workers.protocol import FaultCode, FaultError, fault

MAX_N = 16
MAX_STOP_STRINGS = 16
_INT64 = 2**63

FailFast = Field(fail_fast=True)
"""A million wrong items make one error, not a million."""

TokenId = Annotated[int, Field(ge=0, lt=_INT64)]
TokenIds = Annotated[list[TokenId], FailFast]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class StreamOptions(_Body):
    include_usage: bool | None = None


class GenerationRequest(_Body):
    """What both completion endpoints take."""

    model: Annotated[
        str, Field(min_length=1, description="An installed model, as `GET /v1/models` names it.")
    ]
    temperature: Annotated[float | None, Field(ge=0, le=2, description="0 is greedy.")] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1, le=2**31 - 1, description="0 and -1: off.")] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1, description="Wins over `max_tokens`.")] = None
    stop: str | Annotated[list[str], FailFast, Field(max_length=MAX_STOP_STRINGS)] | None = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: bool | None = None
    seed: Annotated[int | None, Field(ge=-_INT64, lt=_INT64)] = None
    n: Annotated[int | None, Field(ge=1, le=MAX_N)] = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    repetition_penalty: Annotated[float | None, Field(gt=0)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    keep_alive: Annotated[
        str | int | float | None,
        Field(description="How long the model stays loaded afterwards: seconds, `10m`, `1h30m`, -1 forever."),
    ] = None
    context_share: Annotated[
        float | None,
        Field(gt=0, le=1, description="Part of the context a reply may fill without `max_tokens`."),
    ] = None


class ContentPart(_Body):
    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(_Body):
    name: Annotated[str, Field(min_length=1)]
    arguments: str | dict[str, Any] = "{}"


class MessageToolCall(_Body):
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(_Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[ContentPart], FailFast] | None = None
    reasoning_content: str | None = None
    name: str | None = None
    tool_calls: Annotated[list[MessageToolCall], FailFast] | None = None
    tool_call_id: str | None = None


class Function(_Body):
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(_Body):
    type: Literal["function"] = "function"
    function: Function


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], FailFast, Field(min_length=1)]
    tools: Annotated[list[Tool], FailFast] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    prompt: str | Annotated[list[str], FailFast] | TokenIds | Annotated[list[TokenIds], FailFast]


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """Every answer of 400 and above."""

    error: ErrorBody


# --------------------------------------------------------------------- validation

S = TypeVar("S", bound=BaseModel)


def parse(schema: type[S], body: dict[str, Any]) -> S:
    """`body` as a `schema`. Raises FaultError(INVALID_REQUEST) that names the first wrong field."""
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        raise _refusal(body, [(one["loc"], one["type"], one["msg"]) for one in details]) from None


_Loc = tuple[int | str, ...]
_Error = tuple[_Loc, str, str]
"""Where, what kind, and pydantic's sentence about it."""


def _refusal(body: Mapping[str, Any], errors: Sequence[_Error]) -> FaultError:
    """Pydantic tells of every branch of a union. Where one branch has the right type, the wrong types of the
    others say nothing. Of the rest, the deepest place inside the first wrong field is the one that the
    client meant; if the branches disagree about it, the field itself is named."""
    field = errors[0][0][0]
    found = [(_place(body, loc, kind), kind, text) for loc, kind, text in errors if loc[0] == field]
    found = [one for one in found if not one[1].endswith("_type")] or found
    depth = max(len(place) for place, _, _ in found)
    places = {place for place, _, _ in found if len(place) == depth}
    place = places.pop() if len(places) == 1 else (field,)
    here = [(kind, text) for at, kind, text in found if at == place or place == (field,)]
    if body.get(str(place[0])) is None or any(kind == "missing" for kind, _ in here):
        return _bad_field(place, " is required")
    texts = [_SHOULD_BE + _OBJECT if kind in _OBJECT_KINDS else text for kind, text in here]
    if all(text.startswith(_SHOULD_BE) for text in texts):
        expected = dict.fromkeys(text.removeprefix(_SHOULD_BE) for text in texts)
        return _bad_field(place, " should be " + " or ".join(expected))
    return _bad_field(place, ": " + texts[0].replace(" after validation", ""))


_SHOULD_BE = "Input should be "
_OBJECT_KINDS = ("model_type", "dict_type")
_OBJECT = "an object"
"""Pydantic's words for it are Python's."""


def _bad_field(place: _Loc, words: str) -> FaultError:
    param = _shown(place)
    return fault(FaultCode.INVALID_REQUEST, f"'{param}'{words}.", param=param)


def _place(body: Any, loc: _Loc, kind: str) -> _Loc:
    """`loc` without pydantic's names for the branches of unions, which are no steps into the body."""
    place: list[int | str] = []
    for position, step in enumerate(loc):
        is_step = (isinstance(body, dict) and step in body) or (
            isinstance(body, list) and isinstance(step, int) and step < len(body)
        )
        if is_step:
            body = body[step]
            place.append(step)
        elif kind == "missing" and position == len(loc) - 1:
            place.append(step)
    return tuple(place)


def _shown(place: _Loc) -> str:
    """`messages[0].content`"""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
