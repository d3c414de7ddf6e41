"""Forced and strict tool calls: names, arguments and markers are right whatever the model would say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mlxk.workers.protocol import FaultCode, FaultError, Generate
from tests.unit.workers.constrained import (
    CALL,
    CITY,
    MESSAGES,
    N_TOKENS,
    NASTY,
    TOOLS,
    allowed,
    babble,
    calls_in,
    constraint,
    new_constraints,
    parts,
    prompt_of,
    tokenizer,
    tool,
)


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
