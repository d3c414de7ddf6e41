"""The sampling fields of the contract through the unmodified `openai` client, with real models."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.e2e.openai_sdk import Sdk, joined
from tests.e2e.prompts import COUNT_10, COUNTED_10, END_TOKENS, GO_ON

pytestmark = pytest.mark.parametrize("sdk", ["sync"], indirect=True)

OPEN = "A sea of many words, in no order that anybody knows: blue"
"""A completion prompt after which `tiny` is not sure of anything."""
LOOSE: dict[str, Any] = {"temperature": 2.0, "max_tokens": 12, "extra_body": {"ignore_eos": True}}


def texts(reply: Any) -> list[str]:
    return [choice.text for choice in reply.choices]


def streamed_texts(sdk: Sdk, n: int, **fields: Any) -> tuple[list[str], list[Any]]:
    chunks = list(
        sdk.each(sdk.text(OPEN, stream=True, n=n, stream_options={"include_usage": True}, **fields))
    )
    found = [""] * n
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        found[choice.index] += choice.text
    return found, chunks


@pytest.mark.parametrize("n", [1, 2, 16])
def test_a_seed_gives_the_same_choices_streamed_and_whole_that_differ(sdk: Sdk, n: int) -> None:
    reply = sdk.text(OPEN, n=n, seed=5, **LOOSE)
    assert [choice.index for choice in reply.choices] == list(range(n))
    assert len(set(texts(reply))) >= max(min(n, 2), n - 1), "two may happen to say the same"
    found, chunks = streamed_texts(sdk, n, seed=5, **LOOSE)
    assert found == texts(reply)
    usages = [chunk.usage for chunk in chunks if not chunk.choices]
    assert [usage.completion_tokens for usage in usages] == [reply.usage.completion_tokens] == [12 * n]
    assert reply.usage.prompt_tokens == usages[0].prompt_tokens < 100, "the prompt counts once"
    assert texts(sdk.text(OPEN, n=n, seed=77, **LOOSE)) != texts(reply)


def test_without_a_seed_two_requests_differ(sdk: Sdk) -> None:
    assert texts(sdk.text(OPEN, **LOOSE)) != texts(sdk.text(OPEN, **LOOSE))


def test_chat_choices_are_streamed_side_by_side(sdk: Sdk) -> None:
    fields: dict[str, Any] = {"n": 4, "seed": 3, "temperature": 2.0, "max_tokens": 10}
    whole = sdk.chat("Who are you?", **fields)
    chunks = sdk.chunks("Who are you?", **fields)
    for choice in whole.choices:
        assert joined(chunks, index=choice.index) == (choice.message.content or "")
        roles = [c.delta.role for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert roles.count("assistant") == 1
        ends = [c.finish_reason for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert [end for end in ends if end] == [choice.finish_reason]


def test_null_is_absent_and_the_user_is_welcome(sdk: Sdk) -> None:
    nothing = dict.fromkeys(
        ("top_p", "seed", "n", "stop", "logprobs", "max_tokens", "presence_penalty", "logit_bias")
    )
    extra = dict.fromkeys(("top_k", "min_p", "repetition_penalty", "ignore_eos", "stop_token_ids"))
    reply = sdk.chat(COUNT_10, user="somebody", extra_body=extra, **nothing)
    assert reply.choices[0].message.content == COUNTED_10


def test_max_completion_tokens_wins_over_max_tokens(sdk: Sdk) -> None:
    for fields, wanted in (
        ({"max_tokens": 3}, 3),
        ({"max_completion_tokens": 4}, 4),
        ({"max_tokens": 3, "max_completion_tokens": 5}, 5),
    ):
        reply = sdk.chat(COUNT_10, **fields)
        assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (wanted, "length")


def test_ignore_eos_goes_on_and_a_stop_token_ends(sdk: Sdk) -> None:
    assert sdk.chat(COUNT_10).choices[0].finish_reason == "stop"
    on = sdk.chat(COUNT_10, max_tokens=60, extra_body={"ignore_eos": True})
    assert (on.choices[0].finish_reason, on.usage.completion_tokens) == ("length", 60)
    stopped = sdk.text(GO_ON, max_tokens=60, extra_body={"stop_token_ids": [END_TOKENS[0], 23]})
    assert stopped.choices[0].text == "5\n6\n7\n"
    assert stopped.choices[0].model_extra["matched_stop"] == 23


def test_biases_and_penalties_reach_the_model(sdk: Sdk) -> None:
    five, six = "20", "21"
    assert sdk.text(GO_ON, max_tokens=1).choices[0].text == "5"
    assert sdk.text(GO_ON, max_tokens=1, logit_bias={five: -100, six: 100}).choices[0].text == "6"
    banned = sdk.text(GO_ON, max_tokens=3, logit_bias={five: 100}).choices[0].text
    assert banned == "555"
    once = sdk.text(GO_ON, max_tokens=3, logit_bias={five: 15}, frequency_penalty=2, presence_penalty=2)
    assert once.choices[0].text.startswith("5")


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2.0, "top_p": 0.0},
        {"temperature": 1e-40},
        {"temperature": 2.0, "extra_body": {"top_k": 1}},
        {"temperature": 2.0, "extra_body": {"min_p": 1.0}},
        {"temperature": 1e-6, "seed": 2**63 - 1, "top_p": 1e-30},
    ],
)
def test_extremes_that_leave_one_token_are_greedy(sdk: Sdk, fields: dict[str, Any]) -> None:
    assert sdk.chat(COUNT_10, **fields).choices[0].message.content == COUNTED_10


def test_a_top_k_beyond_the_vocabulary_keeps_everything(sdk: Sdk) -> None:
    wide = {**LOOSE, "extra_body": {"ignore_eos": True, "top_k": 10**6}}
    assert texts(sdk.text(OPEN, seed=5, **wide)) == texts(sdk.text(OPEN, seed=5, **LOOSE))


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"echo": True}, "echo"), ({"suffix": "x"}, "suffix"), ({"best_of": 3}, "best_of")],
)
def test_what_cannot_be_done_is_refused_by_name(sdk: Sdk, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.text(GO_ON, **fields)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)


def test_a_token_outside_of_the_vocabulary_is_refused_and_the_next_request_works(sdk: Sdk) -> None:
    for fields, param in (
        ({"logit_bias": {"640": 1}}, "logit_bias"),
        ({"extra_body": {"stop_token_ids": [640]}}, "stop_token_ids"),
        ({"extra_body": {"repetition_penalty": 1e-9}}, "repetition_penalty"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.text(GO_ON, **fields)
        assert caught.value.param == param
    assert sdk.text(GO_ON, max_tokens=1).choices[0].text == "5"
