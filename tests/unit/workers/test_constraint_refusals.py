"""What cannot be promised is refused, with the reason, the field at fault and no stall."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import pytest

from mlxk.workers import constraints as constraints_module
from mlxk.workers import grammars
from mlxk.workers.grammars import MAX_SCHEMA_CHARACTERS
from mlxk.workers.protocol import FaultCode, FaultError, Generate
from tests.unit.workers.constrained import (
    CITY,
    MESSAGES,
    N_TOKENS,
    SCHEMA,
    TOOLS,
    allowed,
    constraint,
    new_constraints,
    prompt_of,
    tokenizer,
    tool,
)


def ring(n: int) -> dict[str, Any]:
    """Definitions that are each made of two others."""
    return {
        f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{j % n}"} for j in (i + 1, 7 * i)] + [{"const": str(i)}]}
        for i in range(n)
    }


def refusal(**wanted: Any) -> tuple[FaultCode, str | None, str]:
    with pytest.raises(FaultError) as caught:
        constraint(**wanted)
    fault = caught.value.fault
    return fault.code, fault.param, fault.message


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {}}, "contains"),
        ({"type": "object", "propertyNames": {"maxLength": 2}}, "propertyNames"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"if": {"type": "string"}, "then": {"minLength": 3}}, "if"),
        (
            {"oneOf": [{"type": "number"}, {"type": "integer"}]},
            "branches of a 'oneOf' overlap, or may; 'anyOf'",
        ),
        ({"type": "string", "format": "banana"}, "banana"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "strang"}, "strang"),
        ({"$ref": "#/$defs/missing"}, "/$defs/missing"),
        ({"$ref": "http://127.0.0.1:1/schema"}, "does not fetch"),
        ({"required": "x"}, "required"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "Unsatisfiable"),
        ({"$ref": "#"}, "no JSON text satisfies it"),
        ({"properties": {"a": {"x-guidance": {"lenient": True}, "not": {}}}}, "not"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "not"),
        ({"enum": ["x" * MAX_SCHEMA_CHARACTERS]}, "characters"),
        ({"properties": {f"p{i}": {} for i in range(501)}}, "at most 500 'properties'"),
        ({"patternProperties": {f"^{i}x$": {} for i in range(17)}}, "at most 16 'patternProperties'"),
        ({"$ref": "#/$defs/d0", "$defs": ring(1500)}, "at most 1000 references and branches"),
        ({"anyOf": [{"const": "x"}] * 1001}, "at most 1000 references and branches"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_schema_that_cannot_be_followed_is_refused_with_the_reason(
    schema: dict[str, Any], why: str
) -> None:
    code, param, message = refusal(json_schema=schema)
    assert (code, param) == (FaultCode.INVALID_REQUEST, SCHEMA)
    assert why in message


def test_the_tool_at_fault_is_named() -> None:
    bad = tool("g", {"type": "object", "properties": {"x": {"not": {}}}})
    code, param, message = refusal(tools=[tool("f", CITY), bad], required_tools=["f", "g"])
    assert (code, param) == (FaultCode.INVALID_REQUEST, "tools[1].function.parameters")
    assert "not" in message
    assert refusal(tools=[tool("f", {"type": "string"})], required_tools=["f"])[1] == (
        "tools[0].function.parameters"
    )


def test_a_refused_schema_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients send the same one again and again, and compiling holds up everybody's requests."""
    compiled: list[str] = []
    matcher = constraints_module._matcher

    def counting(tokenizer: Any, text: str) -> Any:
        compiled.append(text)
        return matcher(tokenizer, text)

    monkeypatch.setattr(constraints_module, "_matcher", counting)
    mine = new_constraints(tokenizer())

    def refused(schema: dict[str, Any]) -> tuple[FaultCode, str | None, str]:
        request = Generate("r", messages=MESSAGES, json_schema=schema)
        with pytest.raises(FaultError) as caught:
            mine.constraint(request, prompt_of(request))
        return caught.value.fault.code, caught.value.fault.param, caught.value.fault.message

    first = refused({"not": {}})
    n_compiled = len(compiled)
    assert n_compiled > 0
    assert [refused({"not": {}}) for _ in range(5)] == [first] * 5
    assert len(compiled) == n_compiled
    for number in range(constraints_module.MAX_COMPILED + 5):
        refused({"not": {"const": number}})
    assert len(mine._refusals) == constraints_module.MAX_COMPILED
    good = Generate("r", messages=MESSAGES, json_schema=CITY)
    assert mine.constraint(good, prompt_of(good)) is not None


def test_bounds_that_the_grammar_cannot_count_to_are_refused() -> None:
    """llguidance would take a double in their place, and the reply would not validate."""
    n = 2**53 + 1
    bounds = [{"minimum": n}, {"maximum": -n}, {"exclusiveMinimum": 1e30}, {"enum": [{"a": n}]}, {"const": n}]
    for bound in bounds:
        code, param, message = refusal(json_schema={"type": "object", "properties": {"n": bound}})
        assert (code, param) == (FaultCode.INVALID_REQUEST, SCHEMA)
        assert "beyond" in message
    constraint(json_schema={"type": "object", "properties": {"minimum": {"type": "integer", "minimum": 0}}})
    constraint(json_schema={"enum": [2**53, -(2**53), 1.5, "2", None]})


def test_numbers_are_looked_for_once_in_each_place() -> None:
    """Anew at each level, this would take hours."""
    schema: dict[str, Any] = {"const": [0.5]}
    for _ in range(100_000):
        schema = {"const": schema}
    assert not grammars._has_inexact_number(schema)
    assert grammars._has_inexact_number({"const": [schema, {"a": 2**53 + 1}]})


def test_a_schema_that_is_too_long_is_not_looked_at_any_further(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr(grammars, "_check_counts", lambda schema, param: looked_at.append(param))
    assert refusal(json_schema={"enum": ["x" * MAX_SCHEMA_CHARACTERS]})[0] == FaultCode.INVALID_REQUEST
    assert not looked_at
    constraint(json_schema=CITY)
    assert looked_at == [SCHEMA]


def deep(n: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(n):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


PATHOLOGICAL = {
    "deep": deep(55),
    "many values": {"enum": [f"value {i}" for i in range(12_000)]},
    "many properties": {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(500)}},
    "exponential pattern": {"type": "string", "pattern": "(a|b)*a(a|b){22}c"},
    "nested counts": {"type": "string", "pattern": "(((a{1,99}){1,99}){1,99}){1,99}"},
    "many stars": {"type": "string", "pattern": "(.*)(.*)(.*)x" * 60},
    "both patterns": {"allOf": [{"type": "string", "pattern": f"a{i}.*b"} for i in range(16)]},
    "long": {"type": "string", "minLength": 10**7, "maxLength": 10**8},
    "many items": {"type": "array", "minItems": 10**7, "items": {"type": "integer"}},
    "product": {
        "allOf": [
            {"anyOf": [{"properties": {f"a{i}{j}": {"type": "integer"}}} for j in range(5)]}
            for i in range(12)
        ]
    },
    "overlaps": {"anyOf": [{"type": "string", "pattern": f".*{i}.*x{i}"} for i in range(400)]},
    "branches": {
        "anyOf": [{"type": "number", "minimum": i * 1.37, "maximum": i * 2.71} for i in range(1, 999)]
    },
    "recursion": {"$ref": "#/$defs/d0", "$defs": ring(240)},
    "multiples": {"type": "integer", "multipleOf": 999_983, "minimum": 10**15},
}


@pytest.mark.parametrize("name", list(PATHOLOGICAL))
def test_a_pathological_schema_is_refused_or_followed_without_a_stall(name: str) -> None:
    """The engine does nothing else meanwhile. Measured: 2 s at most; the bound is for slow machines."""
    began = time.monotonic()
    try:
        made, prompt = constraint(json_schema=PATHOLOGICAL[name])
    except FaultError:
        pass  # as good; which of the two it is, is llguidance's choice
    else:
        chance, tokens = random.Random(1), list(prompt.tokens)
        for _ in range(20):
            made.processor(mx.array(tokens), mx.zeros((1, N_TOKENS)))
            if made.processor.fault is not None:
                break
            tokens.append(chance.choice(allowed(made, tokens)))
    assert time.monotonic() - began < 10


@pytest.fixture
def no_llguidance(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "llguidance", None)


@pytest.mark.usefixtures("no_llguidance")
@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"json_schema": CITY}, "response_format"),
        ({"tools": TOOLS, "required_tools": ["now"]}, "tool_choice"),
        ({"tools": [tool("f", CITY, strict=True)]}, "tools[0].function.strict"),
    ],
)
def test_without_llguidance_the_refusal_says_how_to_get_it(wanted: dict[str, Any], param: str) -> None:
    request = Generate("r", messages=MESSAGES, **wanted)
    with pytest.raises(FaultError, match=r"pip install 'mlxk\[structured\]'") as caught:
        new_constraints(tokenizer()).constraint(request, prompt_of(request))
    assert (caught.value.fault.code, caught.value.fault.param) == (FaultCode.UNSUPPORTED_PARAMETER, param)
    plain = Generate("r", messages=MESSAGES, tools=TOOLS)
    assert new_constraints(tokenizer()).constraint(plain, prompt_of(plain)) is None


class NotFast:
    backend_tokenizer = None

    def __getattr__(self, name: str) -> Any:
        return getattr(tokenizer(), name)


def test_a_tokenizer_that_is_not_fast_is_a_clear_refusal() -> None:
    request = Generate("r", messages=MESSAGES, json_schema=CITY)
    with pytest.raises(FaultError, match="tokenizer") as caught:
        new_constraints(NotFast()).constraint(request, prompt_of(request))
    assert caught.value.fault.code is FaultCode.UNSUPPORTED_PARAMETER
