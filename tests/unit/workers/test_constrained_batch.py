"""Constrained requests in a batch of the real engine: recovery, faults, and the neighbours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mlxk.workers.protocol import Fault, FaultCode, FinishReason, Generate, Sampling
from tests.unit.workers.engines import GREEDY, Conversation, RecordingEngine, run, run_one

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": PERSON}}
MESSAGES = [{"role": "user", "content": "Hello"}]
THINK = [{"role": "user", "content": "Think: what is 2 + 3?"}]
COUNT = [{"role": "user", "content": "Count from 1 to 5."}]


def constrained() -> list[Generate]:
    return [
        Generate("json", messages=MESSAGES, json_schema=PERSON, sampling=GREEDY),
        Generate("thinking", messages=THINK, json_schema=PERSON, sampling=GREEDY),
        Generate("seeded", messages=MESSAGES, json_schema=PERSON, sampling=Sampling(temperature=1.0, seed=4)),
        Generate("call", messages=MESSAGES, tools=[TOOL], required_tools=["weather"], sampling=GREEDY),
    ]


def free() -> Generate:
    return Generate("free", messages=COUNT, sampling=GREEDY)


def test_a_failed_step_costs_a_constrained_reply_nothing(
    tiny: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {request.id: run(tiny, request)[request.id] for request in constrained()}
    conversation = Conversation(tiny)
    conversation.submit(*constrained())
    conversation.run_until(lambda: len(tiny.sampled["thinking"]) > 6)

    def fail() -> Any:
        raise RuntimeError("sabotage")

    monkeypatch.setattr(tiny._running.batch, "step", fail)
    conversation.finish()
    for name, reply in conversation.replies.items():
        assert (reply.text, reply.calls) == (alone[name].text, alone[name].calls)
        text = reply.content or reply.calls[0][1]
        Draft202012Validator(PERSON).validate(json.loads(text))


def test_a_constraint_that_breaks_ends_its_request_alone(tiny: RecordingEngine) -> None:
    wanted = run(tiny, free())["free"].content
    conversation = Conversation(tiny)
    conversation.submit(free(), constrained()[0])
    conversation.run_until(lambda: len(tiny.sampled["json"]) > 3)
    constraint = tiny._running.by_id["json"].constraint
    assert constraint is not None
    constraint.processor._matcher.consume_token(5)  # its matcher is in an error state from here on
    conversation.finish()
    fault = conversation.replies["json"].fault
    assert fault is not None
    assert fault.code is FaultCode.ENGINE_ERROR
    assert "could not be held to its grammar" in fault.message
    assert conversation.replies["free"].content == wanted
    assert tiny.idle


def test_a_constraint_that_broke_in_a_failed_step_begins_anew(
    tiny: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broke may have been the step's doing, and its state is made again from the tokens."""
    alone = run(tiny, constrained()[0])["json"]
    conversation = Conversation(tiny)
    conversation.submit(constrained()[0])
    conversation.run_until(lambda: len(tiny.sampled["json"]) > 3)
    constraint = tiny._running.by_id["json"].constraint
    assert constraint is not None

    def fail() -> Any:
        constraint.processor.fault = Fault(FaultCode.ENGINE_ERROR, "the matcher was interrupted")
        raise RuntimeError("sabotage")

    monkeypatch.setattr(tiny._running.batch, "step", fail)
    conversation.finish()
    reply = conversation.replies["json"]
    assert reply.fault is None
    assert reply.text == alone.text


@pytest.mark.parametrize("model", ["chunked", "state_space"])
def test_other_architectures_follow_too(new_engine: Any, model: str) -> None:
    """`chunked` runs one sequence at a time."""
    engine = new_engine(model)
    for name, reply in run(engine, *constrained()).items():
        if name == "thinking":  # an untrained model may think for as long as its context is
            continue
        assert reply.finished is not None
        if reply.finished.reason is not FinishReason.LENGTH:
            text = reply.content or reply.calls[0][1]
            Draft202012Validator(PERSON).validate(json.loads(text))


def test_the_reply_ends_with_the_grammar_also_where_ends_are_ignored(tiny: RecordingEngine) -> None:
    reply = run_one(tiny, messages=MESSAGES, json_schema=PERSON, ignore_eos=True, max_tokens=500)
    assert reply.finished is not None
    assert reply.finished.reason is FinishReason.STOP
    Draft202012Validator(PERSON).validate(json.loads(reply.content))


def test_stop_strings_of_the_server_do_not_cut_a_constrained_reply(tiny: RecordingEngine) -> None:
    reply = run_one(tiny, messages=MESSAGES, json_schema=PERSON, hidden_stop=['"age"'])
    Draft202012Validator(PERSON).validate(json.loads(reply.content))


def test_a_refused_schema_leaves_nothing_behind(tiny: RecordingEngine) -> None:
    with pytest.raises(Exception, match="cannot be followed"):
        tiny.submit(Generate("bad", messages=MESSAGES, json_schema={"not": {}}))
    assert tiny.idle
    assert run(tiny, free())["free"].content == "1, 2, 3, 4, 5"
