"""Every parameter that the installed `openai` client knows is honoured, refused, or of no effect: none is
forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatStreamParams
from openai.types.completion_create_params import CompletionCreateParamsBase as TextParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as TextStreamParams

from mlxk.api.schemas import ChatRequest, CompletionRequest
from mlxk.api.unsupported import CHAT, COMPLETION
from mlxk.workers.protocol import FaultCode, FaultError
from tests.unit.api.plans import chat, completion

NO_EFFECT = {
    "user": "u",
    "metadata": {"team": "a"},
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
}
"""They label a request or advise OpenAI's cache; the answer is the same."""


def test_every_chat_parameter_is_known() -> None:
    asked = {*ChatParams.__annotations__, *ChatStreamParams.__annotations__}
    assert len(asked) > 30
    assert asked <= {*ChatRequest.model_fields, *CHAT, *NO_EFFECT}


def test_every_completion_parameter_is_known() -> None:
    asked = {*TextParams.__annotations__, *TextStreamParams.__annotations__}
    assert len(asked) > 15
    assert asked <= {*CompletionRequest.model_fields, *COMPLETION, *NO_EFFECT}


def test_nothing_is_refused_that_is_honoured() -> None:
    assert not set(CHAT) & {*ChatRequest.model_fields, *NO_EFFECT}
    assert not set(COMPLETION) & {*CompletionRequest.model_fields, *NO_EFFECT}


def test_labels_and_advice_change_nothing() -> None:
    def generate(**fields: Any) -> Any:
        return chat(**fields).generates[0]

    plain, labelled = generate(), generate(**NO_EFFECT)
    assert plain.messages == labelled.messages
    assert (plain.sampling, plain.stop, plain.max_tokens) == (
        labelled.sampling,
        labelled.stop,
        labelled.max_tokens,
    )


def test_obfuscated_streams_are_refused_and_plain_ones_may_be_asked_for() -> None:
    for plan in (chat, completion):
        plan(stream=True, stream_options={"include_obfuscation": False, "include_usage": True})
        with pytest.raises(FaultError) as caught:
            plan(stream=True, stream_options={"include_obfuscation": True})
        found = caught.value.fault
        assert (found.code, found.param) == (
            FaultCode.UNSUPPORTED_PARAMETER,
            "stream_options.include_obfuscation",
        )
