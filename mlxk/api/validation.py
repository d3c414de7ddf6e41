"""A body against its schema, and the first wrong field by its name as the client wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mlxk.workers.protocol import FaultCode, FaultError, fault

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
