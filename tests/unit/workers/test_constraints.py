"""Grammars over the real tokenizer of `tiny`: whatever the model would say, the reply follows its schema."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from mlx_lm.tokenizer_utils import load as load_tokenizer

from mlxk.store.builtin import builtin_path
from mlxk.workers.constraints import Constraint, Constraints
from mlxk.workers.grammars import MAX_SCHEMA_CHARACTERS
from mlxk.workers.markers import Markers
from mlxk.workers.prompts import Prompt, PromptBuilder
from mlxk.workers.protocol import FaultCode, FaultError, Generate

N_TOKENS = 640
END, OTHER_END = 633, 631
THINK, END_THINK, CALL = 634, 635, 636
SCHEMA = "response_format.json_schema.schema"
MESSAGES = [{"role": "user", "content": "Hello"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}},
    "required": ["city"],
    "additionalProperties": False,
}


def tool(name: str, parameters: dict[str, Any] | None = None, **extra: Any) -> dict[str, Any]:
    function = {"name": name, **({} if parameters is None else {"parameters": parameters}), **extra}
    return {"type": "function", "function": function}


@cache
def tokenizer() -> Any:
    return load_tokenizer(builtin_path(), eos_token_ids=[END, OTHER_END])


@cache
def constraints() -> Constraints:
    return new_constraints(tokenizer())


def new_constraints(wrapper: Any) -> Constraints:
    markers = Markers(tokenizer())
    return Constraints(wrapper, lambda initial: markers.splitter(initial, with_tools=True))


def prompt_of(request: Generate) -> Prompt:
    return PromptBuilder(tokenizer(), N_TOKENS, find_boundaries=False).build(request)


def constraint(**wanted: Any) -> tuple[Constraint, Prompt]:
    wanted = {"template_kwargs": {"enable_thinking": False}, **wanted}
    request = Generate("r", messages=MESSAGES, **wanted)
    prompt = prompt_of(request)
    made = constraints().constraint(request, prompt)
    assert made is not None
    return made, prompt


def allowed(made: Constraint, tokens: list[int], width: int = N_TOKENS) -> list[int]:
    logits = made.processor(mx.array(tokens), mx.zeros((1, width)))
    made.check()
    return [token for token, logit in enumerate(logits[0].tolist()) if logit == 0]


ENDS = {token for text in '}]",' for token in tokenizer().encode(text)} | {END, OTHER_END}


def babble(made: Constraint, prompt: Prompt, seed: int, *, limit: int = 3000) -> list[int]:
    """A reply of a model that knows nothing: any token that may come, ends a little sooner."""
    chance, tokens = random.Random(seed), list(prompt.tokens)
    while len(tokens) < len(prompt.tokens) + limit:
        choices = allowed(made, tokens)
        assert choices, "a dead end"
        ending = [token for token in choices if token in ENDS]
        tokens.append(chance.choice(ending if ending and chance.random() < 0.2 else choices))
        if tokens[-1] in (END, OTHER_END):
            return tokens[len(prompt.tokens) : -1]
    raise AssertionError("no end: " + tokenizer().decode(tokens[len(prompt.tokens) :])[:300])


def parts(made: Constraint, reply: list[int], *, step: int = 3) -> dict[str, str]:
    """The reply's text by state, cut into chunks at odd places."""
    text, found = tokenizer().decode(reply), {"normal": "", "reasoning": "", "tool": ""}
    pieces = [text[i : i + step] for i in range(0, len(text), step)]
    for piece in pieces:
        for state, part in made.splitter.split(piece):
            found[state] += part
    state, rest = made.splitter.flush()
    found[state] += rest
    return found


# ------------------------------------------------------------------------ JSON

KEYS = ["a", "b", "é", 'q"uote', "back\\slash", "", " ", "日本", "<tool_call>", "</think>", "\n"]
TEXTS = ["", "x", "Häuser", "</tool_call>", '"', "\u2028", "😀", "<think>"]
PATTERNS = ["^[a-f]{2,5}$", "^(yes|no)$", "^[0-9]{3}-[0-9]{2}$", "x.{0,3}y", "^\\S{1,4}$"]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "hostname", "email"]


def sizes(low: str, high: str) -> st.SearchStrategy[dict[str, Any]]:
    pair = st.tuples(st.integers(0, 3), st.integers(3, 7))
    return pair.map(lambda found: {low: found[0], high: found[1]})


leaves = st.one_of(
    sizes("minLength", "maxLength").map(lambda size: {"type": "string", **size}),
    st.sampled_from(PATTERNS).map(lambda pattern: {"type": "string", "pattern": pattern}),
    st.sampled_from(FORMATS).map(lambda name: {"type": "string", "format": name}),
    st.lists(st.sampled_from([*TEXTS, 0, -1.5, None, True, [1], {"a": 1}]), min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    ),
    st.tuples(st.integers(-200, 5), st.integers(5, 9999)).map(
        lambda ends: {"type": "integer", "minimum": ends[0], "maximum": ends[1]}
    ),
    st.integers(-9, 9).map(lambda low: {"type": "number", "minimum": low, "maximum": low + 2}),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": "<tool_call>"}, {"$ref": "#/$defs/d"}]),
    st.just({"type": ["boolean", "null"]}),
)


def compounds(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arrays = st.builds(
        lambda items, low, more: {"type": "array", "items": items, "minItems": low, "maxItems": low + more},
        inner,
        st.integers(0, 2),
        st.integers(0, 2),
    )
    tuples = st.lists(inner, min_size=1, max_size=3).map(
        lambda items: {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    )
    objects = st.builds(
        lambda properties, optional, rest: {
            "type": "object",
            "properties": properties,
            "required": [key for key in properties if key not in optional],
            "additionalProperties": rest,
        },
        st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
        st.sets(st.sampled_from(KEYS), max_size=3),
        st.one_of(st.just(False), inner),
    )
    unions = st.lists(inner, min_size=1, max_size=3).map(lambda branches: {"anyOf": branches})
    return st.one_of(arrays, tuples, objects, unions)


schemas = st.recursive(leaves, compounds, max_leaves=8).map(
    lambda schema: {**schema, "$defs": {"d": {"type": "string", "maxLength": 3}}}
)


@given(schemas, st.integers(0, 2**32))
def test_the_most_foolish_model_follows_any_schema(schema: dict[str, Any], seed: int) -> None:
    made, prompt = constraint(json_schema=schema)
    reply = parts(made, babble(made, prompt, seed))
    Draft202012Validator(schema).validate(json.loads(reply["normal"]))
    assert (reply["reasoning"], reply["tool"]) == ("", "")


def test_blanks_are_bounded() -> None:
    """A model that would rather write a blank than anything else comes to an end."""
    made, prompt = constraint(json_schema={"type": "array", "items": {"enum": [1]}, "maxItems": 2})
    tokens = list(prompt.tokens)
    text = ""
    while tokens[-1] not in (END, OTHER_END):
        choices = allowed(made, tokens)
        texts = {token: tokenizer().decode([token]) for token in choices}
        tokens.append(max(choices, key=lambda token: len(texts[token]) - len(texts[token].strip())))
        text = tokenizer().decode(tokens[len(prompt.tokens) : -1])
        assert len(text) < 200
    assert json.loads(text) in ([], [1], [1, 1])


def test_strings_hold_no_escaped_surrogates() -> None:
    made, prompt = constraint(json_schema={"type": "string"})
    tokens = [*prompt.tokens, *tokenizer().encode('"\\')]
    assert {tokenizer().decode([token])[0] for token in allowed(made, tokens)} == set('"\\bfnrt')


def test_after_the_end_only_an_end_of_sequence_may_come() -> None:
    made, prompt = constraint(json_schema={"const": True})
    tokens = [*prompt.tokens, *tokenizer().encode("true")]
    assert allowed(made, tokens) == [OTHER_END, END]
    # The batch asks for one token more than it gives out.
    assert len(allowed(made, [*tokens, END])) == N_TOKENS


@pytest.mark.parametrize("width", [N_TOKENS - 2, N_TOKENS, N_TOKENS + 61])
def test_a_model_may_have_more_or_fewer_logits_than_its_tokenizer_has_tokens(width: int) -> None:
    made, prompt = constraint(json_schema={"type": "boolean"})
    assert allowed(made, prompt.tokens, width) == allowed(made, prompt.tokens)


def test_the_state_follows_from_the_tokens_alone() -> None:
    made, prompt = constraint(json_schema=CITY)
    reply = [*babble(made, prompt, 5), END]
    for n in range(len(reply)):
        fresh, _ = constraint(json_schema=CITY)
        tokens = prompt.tokens + reply[:n]
        seen = allowed(fresh, tokens)
        assert reply[n] in seen
        fresh.restart()
        assert allowed(fresh, tokens) == seen


def test_a_token_that_the_grammar_forbids_is_a_fault_of_this_request() -> None:
    made, prompt = constraint(json_schema=CITY)
    logits = mx.zeros((1, N_TOKENS))
    assert made.processor(mx.array([*prompt.tokens, 5]), logits) is logits
    with pytest.raises(FaultError, match="could not be held to its grammar") as caught:
        made.check()
    assert caught.value.fault.code is FaultCode.ENGINE_ERROR


# -------------------------------------------------------------------- thoughts


def test_the_answer_may_begin_or_thoughts_may() -> None:
    made, prompt = constraint(json_schema=CITY, template_kwargs={})
    assert THINK in (choices := allowed(made, prompt.tokens))
    assert {tokenizer().decode([token])[0] for token in choices if token != THINK} <= set("{\n")
    without, prompt = constraint(json_schema=CITY)
    assert THINK not in allowed(without, prompt.tokens)


def test_thoughts_run_free_and_the_answer_begins_when_they_end() -> None:
    made, prompt = constraint(json_schema=CITY, template_kwargs={})
    thoughts = [THINK, *tokenizer().encode('\nA "<tool_call>"? No {')[:3]]
    tokens = prompt.tokens + thoughts
    free = allowed(made, tokens)
    assert set(range(N_TOKENS)) - set(free) == {END, OTHER_END, CALL}
    after = allowed(made, [*tokens, END_THINK])
    assert END not in after
    assert {tokenizer().decode([token])[0] for token in after} <= set("{\n")


def test_a_model_that_would_end_inside_its_thoughts_ends_them_instead() -> None:
    made, prompt = constraint(json_schema=CITY, template_kwargs={})
    logits = mx.zeros((1, N_TOKENS))
    logits[0, END] = 7.0
    kept = made.processor(mx.array([*prompt.tokens, THINK, 10]), logits)
    assert int(mx.argmax(kept).item()) == END_THINK


def test_thoughts_that_the_template_has_opened_run_free_from_the_first_token() -> None:
    request = Generate("r", messages=MESSAGES, json_schema=CITY)
    prompt = prompt_of(request)
    opened = Prompt([*prompt.tokens, THINK], (), "reasoning", True)
    made = constraints().constraint(request, opened)
    assert made is not None
    assert len(allowed(made, opened.tokens)) == N_TOKENS - 3
    text = '2 + 3 {</think>\n{"city": "</think>"}'
    found = {"normal": "", "reasoning": ""}
    for character in text:
        for state, part in made.splitter.split(character):
            found[state] += part
    assert found == {"normal": '{"city": "</think>"}', "reasoning": "2 + 3 {"}


# ----------------------------------------------------------------------- calls

NASTY = tool('né"x\\ {</tool_call>', CITY)
TOOLS = [tool("weather", CITY, description="d"), tool("now"), NASTY]


def calls_in(made: Constraint, reply: list[int]) -> list[Any]:
    text = parts(made, reply)["tool"]
    decoder, at, found = json.JSONDecoder(), 0, []
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        call, at = decoder.raw_decode(text, at)
        found += call if isinstance(call, list) else [call]
    return found


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize(
    "names", [["weather", "now", NASTY["function"]["name"]], ["now"], ["weather"]], ids=len
)
def test_required_tools_are_called_with_arguments_that_validate(names: list[str], parallel: bool) -> None:
    wanted = {"tools": TOOLS, "required_tools": names, "parallel_tool_calls": parallel}
    numbers = set()
    for seed in range(25):
        made, prompt = constraint(**wanted)
        calls = calls_in(made, babble(made, prompt, seed))
        numbers.add(len(calls))
        for call in calls:
            assert call["name"] in names
            if call["name"] == "now":
                assert call["arguments"] == {}
            else:
                Draft202012Validator(CITY).validate(call["arguments"])
    assert numbers == {1} if not parallel else numbers > {1}
    assert max(numbers) <= 16


class WithoutJsonCalls:
    """The tokenizer of a model that writes its calls in another way."""

    def __init__(self) -> None:
        self.tool_parser = WithoutJsonCalls.__init__

    def __getattr__(self, name: str) -> Any:
        return getattr(tokenizer(), name)


def test_other_formats_are_forced_into_a_list_of_calls() -> None:
    other = new_constraints(WithoutJsonCalls())
    for seed in range(20):
        request = Generate("r", messages=MESSAGES, tools=TOOLS, required_tools=["weather", "now"])
        prompt = prompt_of(request)
        made = other.constraint(request, prompt)
        assert made is not None
        reply = babble(made, prompt, seed)
        assert made.tool_format is not None
        calls = made.tool_format.calls(parts(made, reply)["tool"], TOOLS, closed=True)
        assert calls
        assert {call.name for call in calls} <= {"weather", "now"}


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"tools": [tool("f", CITY), tool("g", CITY, strict=True)]}, "tools[1].function.strict"),
        ({"tools": TOOLS, "json_schema": CITY}, "response_format"),
    ],
)
def test_what_other_formats_cannot_promise_is_refused(wanted: dict[str, Any], param: str) -> None:
    request = Generate("r", messages=MESSAGES, **wanted)
    with pytest.raises(FaultError, match="does not write its calls as JSON") as caught:
        new_constraints(WithoutJsonCalls()).constraint(request, prompt_of(request))
    assert (caught.value.fault.code, caught.value.fault.param) == (FaultCode.UNSUPPORTED_PARAMETER, param)


def test_json_or_a_call_may_begin() -> None:
    made, prompt = constraint(tools=TOOLS, json_schema=CITY)
    assert {tokenizer().decode([token])[0] for token in allowed(made, prompt.tokens)} == {"{", "<"}
    kinds = set()
    for seed in range(30):
        made, prompt = constraint(tools=TOOLS, json_schema=CITY)
        reply = babble(made, prompt, seed, limit=20_000)
        if reply[0] == CALL:
            kinds.add("calls")
            assert all(set(call) == {"name", "arguments"} for call in calls_in(made, reply))
        else:
            kinds.add("json")
            Draft202012Validator(CITY).validate(json.loads(parts(made, reply)["normal"]))
    assert kinds == {"calls", "json"}


def test_strict_tools_leave_the_text_free_and_hold_the_call() -> None:
    made, prompt = constraint(tools=[tool("weather", CITY, strict=True)])
    tokens = prompt.tokens + tokenizer().encode("I will look.\n")
    assert len(allowed(made, tokens)) == N_TOKENS
    tokens.append(CALL)
    assert {tokenizer().decode([token])[0] for token in allowed(made, tokens)} == set("\n{")
    call = '\n{"name": "weather", "arguments": {"city": "</tool"}}\n</tool_call>'
    tokens += tokenizer().encode(call)
    assert len(allowed(made, tokens)) == N_TOKENS  # text again, and further calls
    assert len(allowed(made, [*tokens, CALL])) < 5


# --------------------------------------------------------------------- refusals


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
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
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


# ----------------------------------------------------------------- what is missing


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
