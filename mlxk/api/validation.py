"""A body against its schema, and the first wrong field by its name as the client wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from mlxk.workers.protocol import FaultCode, FaultError, fault

S = TypeVar("S", bound=BaseModel)

_Ids = list[Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]]


def parse(schema: type[S], body: dict[str, Any]) -> S:
    """`body` as a `schema`. Raises FaultError(INVALID_REQUEST) that names the first wrong field."""
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        raise _refusal(body, [(one["loc"], one["type"], one["msg"]) for one in details]) from None


def are_ids(value: Any) -> bool:
    """Whether it is a list of token ids: what the schemas allow, told five times as fast. (For other lists
    they have the words.)"""
    try:
        msgspec.convert(value, _Ids)
    except ValueError:  # msgspec's, and of a lone surrogate in a text
        return False
    return True


_Loc = tuple[int | str, ...]
_Error = tuple[_Loc, str, str]
"""Where, what kind, and pydantic's sentence about it."""


class _Found(NamedTuple):
    place: _Loc
    """Steps into the body."""
    branch: _Loc
    """Pydantic's names for the branches of unions on the way there."""
    kind: str
    text: str


def _refusal(body: Mapping[str, Any], errors: Sequence[_Error]) -> FaultError:
    """Pydantic tells of every branch of a union. Where one branch has the right `type`, what the others miss
    says nothing, and where one has the right JSON type, nor do the wrong types of the others. Of the rest,
    the deepest place inside the first wrong field is the one that the client meant, and what is wrong there
    tells more than what is missing; if the branches disagree about it, the field itself is named."""
    field = errors[0][0][0]
    found = [_find(body, error) for error in errors if error[0][0] == field]
    if body.get(str(field)) is None:
        return _bad_field((field,), " is required")
    others = {one.branch for one in found if one.kind == "literal_error" and one.place[-1] == "type"}
    found = [one for one in found if one.branch not in others and len(one.place) > 1] or found
    found = [one for one in found if not one.kind.endswith("_type")] or found
    depth = max(len(one.place) for one in found)
    deepest = [one for one in found if len(one.place) == depth]
    wrong = [one for one in deepest if one.kind != "missing"]
    if not wrong:
        return _bad_field(deepest[0].place, " is required")
    places = {one.place for one in wrong}
    place = places.pop() if len(places) == 1 else (field,)
    here = [one for one in found if one.kind != "missing" and (one.place == place or place == (field,))]
    texts = [_SHOULD_BE + _OBJECT if one.kind in _OBJECT_KINDS else one.text for one in here]
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


def _find(body: Any, error: _Error) -> _Found:
    """Tells the steps into the body from pydantic's names for the branches of unions, which are none."""
    loc, kind, text = error
    place: list[int | str] = []
    branch: list[int | str] = []
    for position, step in enumerate(loc):
        is_step = (isinstance(body, dict) and step in body) or (
            isinstance(body, list) and isinstance(step, int) and step < len(body)
        )
        if is_step:
            body = body[step]
            place.append(step)
        elif kind == "missing" and position == len(loc) - 1:
            place.append(step)
        else:
            branch.append(step)
    if kind == "literal_error" and len(place) == 1 and not isinstance(body, str):
        kind = "literal_type"  # beside branches that are objects
    return _Found(tuple(place), tuple(branch), kind, text)


def _shown(place: _Loc) -> str:
    """`messages[0].content`"""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
