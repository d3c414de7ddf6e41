from __future__ import annotations

from typing import Any

import pytest

from mlxk.api.schemas import MAX_STOP_CHARS
from mlxk.api.translate import ReplyKind, plan_chat, plan_completion
from mlxk.config.settings import Settings
from mlxk.workers.protocol import FaultError, Generate, Sampling, decode_to_worker, encode_to_worker
from tests.unit.api.plans import MESSAGES, chat, completion

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object"}, "x-hint": "kept"},
}


def only(generates: tuple[Generate, ...]) -> Generate:
    (generate,) = generates
    return generate


def test_what_is_not_said_is_left_to_the_worker() -> None:
    generate = only(chat().generates)
    assert generate.sampling == Sampling()
    assert generate.max_tokens is None
    assert generate.context_share == 0.5
    assert generate.template_kwargs == {}


def test_all_sampling_fields_arrive() -> None:
    fields: dict[str, Any] = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.1,
        "seed": 7,
        "repetition_penalty": 1.1,
        "presence_penalty": -1,
        "frequency_penalty": 2,
        "logit_bias": {"5": -100, "17": 3.5},
    }
    expected = Sampling(0.0, 0.5, -1, 0.1, 7, 1.1, -1.0, 2.0, {5: -100.0, 17: 3.5})
    assert only(chat(**fields).generates).sampling == expected
    assert only(completion(**fields).generates).sampling == expected


def test_limits_and_stops_arrive() -> None:
    generate = only(
        chat(max_tokens=5, stop="END", stop_token_ids=[7, 0], ignore_eos=True, context_share=1).generates
    )
    assert (generate.max_tokens, generate.stop, generate.stop_token_ids) == (5, ["END"], [7, 0])
    assert (generate.ignore_eos, generate.context_share) == (True, 1.0)
    assert only(chat(stop=["a", "b"]).generates).stop == ["a", "b"]


def test_max_completion_tokens_wins() -> None:
    assert only(chat(max_tokens=5, max_completion_tokens=9).generates).max_tokens == 9


def test_an_absurd_max_tokens_still_fits_on_the_wire() -> None:
    generate = only(chat(max_tokens=10**60).generates)
    assert decode_to_worker(encode_to_worker([generate])) == [generate]


def test_every_legal_request_can_be_encoded() -> None:
    generates = chat(seed=-(2**63), n=2, stop_token_ids=[2**63 - 1], tools=[WEATHER]).generates
    assert len(decode_to_worker(encode_to_worker(list(generates)))) == 2


def test_a_long_stop_string_is_taken() -> None:
    assert only(chat(stop=["x" * MAX_STOP_CHARS]).generates).stop == ["x" * MAX_STOP_CHARS]


def test_hidden_stops_are_for_chat_only() -> None:
    settings = Settings(chat_stop_strings=("\nHuman:",))
    plan = plan_chat({"model": "tiny", "messages": MESSAGES}, settings)
    assert only(plan.generates).hidden_stop == ["\nHuman:"]
    assert only(completion().generates).hidden_stop == []


def test_n_choices_differ_by_their_seed_and_id() -> None:
    generates = chat(n=3, seed=40).generates
    seeds = [one.sampling.seed for one in generates]
    assert seeds[0] == 40
    assert len({*seeds, *(one.sampling.seed for one in chat(n=3, seed=41).generates)}) == 6
    assert seeds == [one.sampling.seed for one in chat(n=3, seed=40).generates]
    assert len({one.id for one in generates}) == 3
    assert [one.sampling.seed for one in chat(n=2).generates] == [None, None]


def test_several_prompts_become_choices_prompt_by_prompt() -> None:
    plan = completion(["a", "b"], n=2, seed=1)
    assert [one.prompt for one in plan.generates] == ["a", "a", "b", "b"]
    seeds = [one.sampling.seed for one in plan.generates]
    assert seeds[:2] == seeds[2:]
    assert seeds[0] == 1 != seeds[1]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", [("a", None)]),
        ("", [("", None)]),
        (["a", ""], [("a", None), ("", None)]),
        ([1, 2], [(None, [1, 2])]),
        ([[1], [2, 3]], [(None, [1]), (None, [2, 3])]),
    ],
)
def test_all_shapes_of_prompt(prompt: Any, expected: list[Any]) -> None:
    assert [(one.prompt, one.tokens) for one in completion(prompt).generates] == expected


def test_stream_options_and_keep_alive() -> None:
    plan = chat(stream=True, stream_options={"include_usage": True}, keep_alive="1h30m")
    assert (plan.stream, plan.include_usage, plan.keep_alive_s) == (True, True, 5400.0)
    assert chat(keep_alive=-1).keep_alive_s == -1.0
    assert chat(keep_alive=0).keep_alive_s == 0.0
    assert chat().keep_alive_s is None
    assert (chat().kind, completion().kind) == (ReplyKind.CHAT, ReplyKind.TEXT)


def test_tools_arrive_as_they_were_sent() -> None:
    assert only(chat(tools=[WEATHER]).generates).tools == [WEATHER]
    assert only(chat(tools=[WEATHER], tool_choice="auto").generates).tools == [WEATHER]


CLOCK = {"type": "function", "function": {"name": "clock"}}


@pytest.mark.parametrize(
    ("choice", "shown", "required"),
    [
        ("auto", [WEATHER, CLOCK], []),
        ("required", [WEATHER, CLOCK], ["weather", "clock"]),
        ({"type": "function", "function": {"name": "clock"}}, [WEATHER, CLOCK], ["clock"]),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CLOCK]}}, [CLOCK], []),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CLOCK]}},
            [CLOCK],
            ["clock"],
        ),
    ],
)
def test_tool_choice_says_what_is_shown_and_what_must_be_called(
    choice: Any, shown: list[Any], required: list[str]
) -> None:
    generate = only(chat(tools=[WEATHER, CLOCK], tool_choice=choice).generates)
    assert (generate.tools, generate.required_tools) == (shown, required)


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"schema": {"enum": [1]}, "strict": False}}, {"enum": [1]}),
    ],
)
def test_the_form_of_the_reply_travels_as_a_schema(wanted: Any, schema: Any) -> None:
    assert only(chat(response_format=wanted).generates).json_schema == schema


def test_parallel_calls_are_allowed_unless_refused() -> None:
    assert [only(chat(parallel_tool_calls=v).generates).parallel_tool_calls for v in (None, True, False)] == [
        True,
        True,
        False,
    ]


def test_tool_choice_none_hides_the_tools() -> None:
    assert only(chat(tools=[WEATHER], tool_choice="none").generates).tools is None
    assert only(chat(tools=[]).generates).tools is None


def test_reasoning_effort_becomes_template_arguments() -> None:
    for effort in ("minimal", "low", "medium", "high", "xhigh", "max"):
        assert only(chat(reasoning_effort=effort).generates).template_kwargs == {"reasoning_effort": effort}
    assert only(chat(reasoning_effort="none").generates).template_kwargs == {"enable_thinking": False}


def test_explicit_template_arguments_win() -> None:
    kwargs = {"enable_thinking": True, "style": ["short"]}
    generate = only(chat(reasoning_effort="none", chat_template_kwargs=kwargs).generates)
    assert generate.template_kwargs == kwargs


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": [[1]] * 100_000}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": "a", "logit_bias": {str(i): "x" for i in range(20_000)}}, "logit_bias"),
    ],
    ids=["lists", "texts", "biases"],
)
def test_crowds_are_refused_before_each_is_looked_at(body: dict[str, Any], param: str) -> None:
    with pytest.raises(FaultError) as refused:
        plan_completion({"model": "tiny", **body}, Settings())
    assert refused.value.fault.param == param
    assert " most" in refused.value.fault.message or "more than" in refused.value.fault.message


def test_free_form_parts_of_a_million_values_are_refused() -> None:
    with pytest.raises(FaultError) as refused:
        chat(chat_template_kwargs={"a": [1] * 1_000_000})
    assert refused.value.fault.param == "chat_template_kwargs"
