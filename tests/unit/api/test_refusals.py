"""What is wrong with a request is a 400 that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from mlxk.api.schemas import ChatRequest, CompletionRequest
from mlxk.api.unsupported import CHAT, COMPLETION
from mlxk.workers.protocol import FaultCode, FaultError
from tests.unit.api.plans import MESSAGES, chat, completion


def refusal_of_chat(**fields: Any) -> tuple[FaultCode, str | None]:
    with pytest.raises(FaultError) as caught:
        chat(**fields)
    return caught.value.fault.code, caught.value.fault.param


def refusal_of_completion(**fields: Any) -> tuple[FaultCode, str | None]:
    with pytest.raises(FaultError) as caught:
        completion(**fields)
    return caught.value.fault.code, caught.value.fault.param


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", None),
        ("model", ""),
        ("model", 5),
        ("model", "\ud800"),
        ("temperature", "0.5"),
        ("temperature", True),
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", 10**400),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 1.5),
        ("top_k", False),
        ("min_p", -0.1),
        ("max_tokens", 0),
        ("max_tokens", "100"),
        ("max_completion_tokens", -1),
        ("n", 0),
        ("n", 17),
        ("n", True),
        ("seed", 2**63),
        ("seed", "1"),
        ("stop", 5),
        ("stop", ["x"] * 17),
        ("stop_token_ids", 5),
        ("stop_token_ids", "5"),
        ("ignore_eos", 1),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"٣": 1}),
        ("logit_bias", []),
        ("repetition_penalty", 0),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("stream", "true"),
        ("stream_options", {}),
        ("keep_alive", "soon"),
        ("keep_alive", True),
        ("context_share", 0),
        ("context_share", 1.1),
        ("messages", None),
        ("messages", []),
        ("messages", "hi"),
        ("tools", {}),
        ("tool_choice", "sometimes"),
        ("chat_template_kwargs", []),
        ("chat_template_kwargs", {"depth": 2**70}),
        ("reasoning_effort", "huge"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(field: str, value: Any) -> None:
    assert refusal_of_chat(**{field: value}) == (FaultCode.INVALID_REQUEST, field)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": ["ok", 1]}, "stop[1]"),
        ({"stop_token_ids": [1, -1]}, "stop_token_ids[1]"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"function": {"name": "f", "x": "\ud800"}}]}, "tools[0]"),
    ],
)
def test_a_wrong_value_deep_inside_is_refused_by_its_place(fields: dict[str, Any], param: str) -> None:
    assert refusal_of_chat(**fields) == (FaultCode.INVALID_REQUEST, param)


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        (5, "prompt"),
        ([], "prompt"),
        ({}, "prompt"),
        ([1, "a"], "prompt"),
        ([[]], "prompt[0]"),
        (["a", "\ud800"], "prompt[1]"),
        ("\ud800", "prompt"),
        ([1, -1], "prompt[1]"),
        ([[1], [True]], "prompt[1][0]"),
        (["a"] * 65, "prompt"),
        ([0.5] * 1_000_000, "prompt[0]"),
    ],
)
def test_a_wrong_prompt_is_refused_by_its_place(prompt: Any, param: str) -> None:
    assert refusal_of_completion(prompt=prompt) == (FaultCode.INVALID_REQUEST, param)


@pytest.mark.parametrize("stop", ["", ["ok", ""], "\ud800", ["ok", "\udfff"], ["ok", "x" * 4097]])
def test_a_stop_string_that_cannot_be_honoured_has_a_code_of_its_own(stop: Any) -> None:
    assert refusal_of_chat(stop=stop) == (FaultCode.UNSUPPORTED_STOP_STRING, "stop")
    assert refusal_of_completion(stop=stop) == (FaultCode.UNSUPPORTED_STOP_STRING, "stop")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", {}),
        ("moderation", {"model": "omni-moderation-latest"}),
        ("modalities", ["text", "audio"]),
        ("prediction", {"type": "content"}),
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("service_tier", "flex"),
        ("store", True),
        ("verbosity", "low"),
        ("web_search_options", {}),
        ("prompt", "x"),
        ("suffix", "x"),
        ("echo", True),
        ("best_of", 2),
    ],
)
def test_a_known_field_that_cannot_be_honoured_is_never_ignored(field: str, value: Any) -> None:
    assert refusal_of_chat(**{field: value}) == (FaultCode.UNSUPPORTED_PARAMETER, field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("suffix", "x"),
        ("echo", True),
        ("best_of", 2),
        ("verbosity", "low"),
        ("messages", [{"role": "user", "content": "Hi"}]),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("parallel_tool_calls", False),
        ("response_format", {"type": "json_object"}),
        ("top_logprobs", 2),
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("reasoning_effort", "none"),
    ],
)
def test_the_same_holds_for_text_completions(field: str, value: Any) -> None:
    assert refusal_of_completion(**{field: value}) == (FaultCode.UNSUPPORTED_PARAMETER, field)


def test_a_field_of_the_other_endpoint_is_refused_with_the_endpoint_that_takes_it() -> None:
    """Whatever a client may leave at its default, or at null, is as good as left out."""
    with pytest.raises(FaultError, match="goes with /v1/chat/completions only"):
        completion(reasoning_effort="low")
    with pytest.raises(FaultError, match="goes with /v1/completions only"):
        chat(prompt="x")
    chat(best_of=1, echo=False, suffix="", prompt=None)
    of_chat = set(ChatRequest.model_fields) - set(CompletionRequest.model_fields)
    assert of_chat <= set(COMPLETION)
    assert set(CompletionRequest.model_fields) - set(ChatRequest.model_fields) <= set(CHAT)
    completion(**dict.fromkeys(of_chat))
    completion(tools=[], tool_choice="none", parallel_tool_calls=True, top_logprobs=0)


def test_parts_that_are_no_text_are_refused_by_their_place() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]
    assert refusal_of_chat(messages=messages) == (FaultCode.UNSUPPORTED_PARAMETER, "messages[0].content[1]")


F = {"type": "function", "function": {"name": "f"}}
G = {"type": "function", "function": {"name": "g"}}


def allowed(*tools: dict[str, Any], mode: str = "auto") -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": F}, "tool_choice"),
        ({"tool_choice": G, "tools": [F]}, "tool_choice"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "f"}}, "tools": [F]}, "tool_choice.type"),
        ({"tool_choice": allowed(F, G), "tools": [F]}, "tool_choice.allowed_tools.tools[1]"),
        ({"tool_choice": allowed(G, mode="required"), "tools": [F]}, "tool_choice.allowed_tools.tools[0]"),
        ({"tool_choice": allowed(mode="required"), "tools": [F]}, "tool_choice.allowed_tools.tools"),
        ({"tool_choice": allowed(F, mode="none"), "tools": [F]}, "tool_choice.allowed_tools.mode"),
        ({"tools": [{"function": {"name": "f", "strict": "yes"}}]}, "tools[0].function.strict"),
        ({"parallel_tool_calls": 0}, "parallel_tool_calls"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": True}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": "\ud800"}}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_a_form_that_cannot_be_forced_is_refused_by_its_place(fields: dict[str, Any], param: str) -> None:
    assert refusal_of_chat(**fields) == (FaultCode.INVALID_REQUEST, param)


def test_template_arguments_of_the_server_are_refused() -> None:
    expected = (FaultCode.UNSUPPORTED_PARAMETER, "chat_template_kwargs.chat_template")
    assert refusal_of_chat(chat_template_kwargs={"chat_template": "{{ 1 }}"}) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": False, "top_logprobs": 0, "response_format": {"type": "text"}},
        {"parallel_tool_calls": True, "modalities": ["text"], "functions": []},
        {"user": "me", "metadata": {"a": "b"}, "safety_identifier": "x", "prompt_cache_key": "y"},
        {"frobnicate": {"deep": [1]}, "tool_choice": "auto"},
        dict.fromkeys(["temperature", "stop", "n", "logprobs", "tools", "stream", "stream_options", "seed"]),
    ],
)
def test_neutral_values_unknown_fields_and_nulls_change_nothing(fields: dict[str, Any]) -> None:
    (plain,) = chat().generates
    (generate,) = chat(**fields).generates
    assert generate.sampling == plain.sampling
    assert (generate.stop, generate.tools, generate.messages) == ([], None, plain.messages)


def test_messages_say_what_is_expected() -> None:
    for fields, expected in [
        ({"temperature": "hot"}, "'temperature' should be a valid number."),
        ({"messages": [{"role": "user", "content": 5}]}, "should be a valid string or a valid list."),
        ({"messages": []}, "'messages': List should have at least 1 item, not 0."),
        ({"messages": None}, "'messages' is required."),
        ({"stop": ["x"] * 17}, "'stop': List should have at most 16 items, not 17."),
        ({"tools": ["f"]}, "'tools[0]' should be an object."),
        ({"tools": [{"type": "custom", "custom": {}}]}, "'tools[0].type' should be 'function'."),
        ({"tools": [{"name": "f", "input_schema": {}}]}, "'tools[0].function' is required."),
        ({"tool_choice": 5}, "'tool_choice' should be 'none', 'auto' or 'required' or an object."),
        ({"tool_choice": "any"}, "'tool_choice' should be 'none', 'auto' or 'required'."),
        (
            {"tool_choice": {"type": "tool", "name": "x"}},
            "'tool_choice.type' should be 'function' or 'allowed_tools'.",
        ),
        ({"tool_choice": {"type": "function", "name": "x"}}, "'tool_choice.function' is required."),
        (
            {"tool_choice": {"type": "function", "function": "x"}},
            "'tool_choice.function' should be an object.",
        ),
        ({"tool_choice": {"type": "allowed_tools"}}, "'tool_choice.allowed_tools' is required."),
        ({"messages": MESSAGES * 20_001}, "'messages' holds 20001 messages; 20000 are the most."),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 20_001}]},
            "'messages' holds 20001 parts and calls; 20000 are the most.",
        ),
        ({"tools": [F] * 20_001}, "'tools' holds 20001 tools; 20000 are the most."),
    ]:
        with pytest.raises(FaultError) as caught:
            chat(**fields)  # type: ignore[arg-type]
        assert expected in caught.value.fault.message
