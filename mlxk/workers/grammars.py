"""What a request asks of the form of its reply, and the grammar that says it (llguidance's, as JSON text).

Knows neither MLX nor llguidance: `constraints.py` compiles what is written here.
See docs/decisions/0016-structured-replies.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mlxk.workers.protocol import FaultCode, FaultError, Generate, fault

MAX_CALLS = 16
"""In a reply that must call: a model that finds no end stops here."""
MAX_SCHEMA_CHARACTERS = 256 * 1024
"""Of all schemas of a request. Compiling holds up the other requests: more would do so for too long."""

MAX_PROPERTIES = 500
"""Of one object: llguidance's work grows with the square."""
MAX_PATTERN_PROPERTIES = 16
"""Of a schema: each is compared with every other, and 500 took four minutes."""
MAX_JOINTS = 1000
"""References and branches (of anyOf and the like) of a schema. llguidance follows them by recursion, and a
chain of 1,500 references overflowed the stack."""
LARGEST_INTEGER = 1 << 53
"""Of bounds and values: llguidance reads them as doubles."""
_KEYS_OF_NUMBERS = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "const",
    "enum",
)

BLANKS = r"(\n([ ]{0,20}|\t{0,8})| )?"
"""What may stand between two parts of a JSON text: nothing, a blank, or a line's end and an indentation.
Bounded, because a model that is unsure of the next part would otherwise write blanks for ever."""

OPTIONS = {
    "whitespace_pattern": BLANKS,
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_flexible": True,
    # An unknown keyword is an error, and so is a oneOf whose branches overlap: ignored or widened, the
    # reply would not validate.
    "lenient": False,
    "coerce_one_of": False,
    # No \uXXXX: it could be half a surrogate pair, which not all parsers of JSON take, or write a key twice.
    "json_allowed_escapes": '"\\bfnrt',
    "json_allow_general_unicode_escapes": False,
}
"""llguidance's; they stand in the schema, where those of a client would stand too (`x-guidance`)."""

RESPONSE_SCHEMA = "response_format.json_schema.schema"


class Form(Enum):
    """What the answer is, after any thoughts."""

    JSON = "json"
    CALLS = "calls"
    JSON_OR_CALLS = "json or calls"
    FREE = "free"
    """Text, but what stands between the markers of a call must be right."""


@dataclass(frozen=True, slots=True)
class CallMarkers:
    """Around a call that is one JSON object {"name", "arguments"}."""

    start: str
    end: str


@dataclass(frozen=True, slots=True)
class Part:
    """A schema inside of a grammar."""

    name: str
    schema: dict[str, Any]
    param: str
    """The field of the request that it came from."""


@dataclass(frozen=True, slots=True)
class Grammar:
    form: Form
    lark: str
    parts: tuple[Part, ...]
    markers: CallMarkers | None
    """None where calls are one JSON array, without markers (or where there are none)."""

    def text(self) -> str:
        return _grammar_text(self.lark, self.parts)


def part_text(part: Part) -> str:
    """A grammar of this part alone, to find the one that is at fault."""
    return _grammar_text(f"start: @{part.name}", (part,))


def asked_by(request: Generate) -> tuple[Form, str] | None:
    """The form that a request asks for and the field that does; None where the reply is free."""
    if request.required_tools:
        return Form.CALLS, "tool_choice"
    if request.json_schema is not None:
        return Form.JSON_OR_CALLS if request.tools else Form.JSON, "response_format"
    for index, tool in enumerate(request.tools or ()):
        if _is_strict(tool):
            return Form.FREE, f"tools[{index}].function.strict"
    return None


def grammar(
    request: Generate,
    form: Form,
    markers: CallMarkers | None,
    *,
    special: Callable[[str], int | None],
    after_thoughts: bool,
) -> Grammar:
    """The grammar of `form`. `markers` are the model's, if it writes its calls as JSON; `special` gives the
    one token that a marker is. Raises FaultError for schemas that can be refused without compiling."""
    parts: list[Part] = []
    rules: list[str] = [r'NL: "\n"']
    starts: list[str] = []
    if form in (Form.JSON, Form.JSON_OR_CALLS):
        parts.append(_part("doc", request.json_schema or {}, RESPONSE_SCHEMA))
        starts.append("@doc")
    if form is not Form.JSON:
        bodies = []
        for index, name, schema, param in _tools(request, form):
            parts.append(_part(f"p{index}", schema, param))
            opening = '{"name": ' + json.dumps(name, ensure_ascii=False) + ', "arguments": '
            rules.append(f"t{index}: {_literal(opening)} @p{index} {_literal('}')}")
            bodies.append(f"t{index}")
        rules.append("tool: " + " | ".join(bodies))
        starts.append("calls")
        rules += _calls(form, markers, special, parallel=request.parallel_tool_calls)
    _check_size(parts)  # first: the other looks are at all of it
    for part in parts:
        _check_counts(part.schema, part.param)
    start = " | ".join(starts)
    if after_thoughts and form is not Form.FREE:
        rules.append(r"LEAD: /\n{1,2}/")
        start = f"LEAD? ({start})"
    return Grammar(form, "\n".join([f"start: {start}", *rules]), tuple(parts), markers)


def _calls(
    form: Form, markers: CallMarkers | None, special: Callable[[str], int | None], *, parallel: bool
) -> list[str]:
    more = MAX_CALLS - 1 if parallel else 0
    if markers is None:
        return [
            r"BLANKS: / |\n[ ]{0,20}/",
            _repeated('calls: "[" tool', 'BLANKS? "," BLANKS? tool', more, '"]"'),
        ]
    start, end = _marker(markers.start, special), _marker(markers.end, special)
    if form is Form.FREE:  # the model has written the first marker already
        return [f"calls: NL? tool NL? {end}"]
    return [f"call: {start} NL? tool NL? {end}", _repeated("calls: call", "NL? call", more, "")]


def _repeated(first: str, again: str, more: int, last: str) -> str:
    return f"{first} ({again}){{0,{more}}} {last}" if more else f"{first} {last}"


def _marker(text: str, special: Callable[[str], int | None]) -> str:
    token = special(text)
    return _literal(text) if token is None else f"<[{token}]>"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _tools(request: Generate, form: Form) -> Iterable[tuple[int, str, dict[str, Any], str]]:
    """Index, name, schema of the arguments and its place in the request."""
    for index, tool in enumerate(request.tools or ()):
        function = tool.get("function") or {}
        name = str(function.get("name"))
        if form is Form.CALLS and name not in request.required_tools:
            continue
        bound = form is Form.CALLS or _is_strict(tool)
        param = f"tools[{index}].function.parameters"
        yield index, name, _parameters(function, param) if bound else {"type": "object"}, param


def _is_strict(tool: dict[str, Any]) -> bool:
    return (tool.get("function") or {}).get("strict") is True


def _parameters(function: dict[str, Any], param: str) -> dict[str, Any]:
    schema = function.get("parameters")
    if schema is None:  # OpenAI's: a function without parameters
        return {"type": "object", "properties": {}, "additionalProperties": False}
    kind = schema.get("type")
    if kind == "object" or (
        kind is None and any(key in schema for key in ("$ref", "anyOf", "oneOf", "allOf"))
    ):
        return dict(schema)
    if kind is None:
        return {**schema, "type": "object"}
    raise refusal(param, "the arguments of a call are an object, so its type must be 'object'")


def _part(name: str, schema: dict[str, Any], param: str) -> Part:
    return Part(name, {**schema, "x-guidance": OPTIONS}, param)


def _check_counts(schema: Any, param: str) -> None:
    """Refuses what would keep llguidance busy for minutes, or end the process in a stack overflow.

    And `minProperties`: it counts different keys, and a grammar cannot see that a free key comes twice.
    """
    waiting, patterns, joints = [schema], 0, 0
    while waiting:
        here = waiting.pop()
        if isinstance(here, list):
            waiting += here
            joints += sum(isinstance(branch, dict) for branch in here)
        elif isinstance(here, dict):
            # The texts of an enum are no schemas, whatever they look like.
            texts = ("enum", "examples")
            waiting += [v for k, v in here.items() if not (k in texts and isinstance(v, list))]
            joints += "$ref" in here
            least, required = here.get("minProperties"), here.get("required")
            sure = len(required) if isinstance(required, list) else 0
            if isinstance(least, int) and least > max(1, sure):
                raise refusal(param, "'minProperties' over 1 works only for as many 'required' keys")
            if len(_object(here, "properties")) > MAX_PROPERTIES:
                raise refusal(param, f"an object may have at most {MAX_PROPERTIES} 'properties'")
            patterns += len(_object(here, "patternProperties"))
    if _has_inexact_number(schema):
        raise refusal(param, f"a number beyond {LARGEST_INTEGER} would not be followed exactly")
    if patterns > MAX_PATTERN_PROPERTIES:
        raise refusal(param, f"it may have at most {MAX_PATTERN_PROPERTIES} 'patternProperties'")
    if joints > MAX_JOINTS:
        raise refusal(param, f"it may have at most {MAX_JOINTS} references and branches")


def _has_inexact_number(schema: Any) -> bool:
    """Whether a bound or a value in the schema is a number that a double may not hold."""
    waiting = [(schema, False)]
    while waiting:  # each place once: a `const` may hold a `const`, and so on
        here, is_value = waiting.pop()
        if isinstance(here, dict):
            waiting += [(inner, is_value or key in _KEYS_OF_NUMBERS) for key, inner in here.items()]
        elif isinstance(here, list):
            waiting += [(inner, is_value) for inner in here]
        elif is_value and isinstance(here, int | float) and abs(here) > LARGEST_INTEGER:
            return True
    return False


def _object(schema: dict[str, Any], key: str) -> dict[str, Any]:
    found = schema.get(key)
    return found if isinstance(found, dict) else {}


def _check_size(parts: list[Part]) -> None:
    size = sum(len(json.dumps(part.schema)) for part in parts)
    if size > MAX_SCHEMA_CHARACTERS:
        why = f"the schemas of a request may have {MAX_SCHEMA_CHARACTERS} characters together, not {size}"
        raise refusal(parts[0].param, why)


def refusal(param: str, why: str) -> FaultError:
    """The 400 for a schema that cannot be followed. `why` may be llguidance's own words."""
    if "coerce_one_of" in why:  # its advice is an option of ours, not of a client's
        why = "the branches of a 'oneOf' overlap, or may; 'anyOf' allows what any of its branches does"
    return fault(FaultCode.INVALID_REQUEST, f"'{param}' cannot be followed: {why}.", param=param)


def _grammar_text(lark: str, parts: Iterable[Part]) -> str:
    schemas = [{"name": part.name, "json_schema": part.schema} for part in parts]
    return json.dumps({"grammars": [{"lark_grammar": lark}, *schemas]})
