"""Whatever the model would say, the reply follows its schema."""

from __future__ import annotations

import json
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mlxk.workers.protocol import FaultCode, FaultError
from tests.unit.workers.constrained import (
    CITY,
    END,
    N_TOKENS,
    OTHER_END,
    allowed,
    babble,
    constraint,
    parts,
    tokenizer,
)

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
