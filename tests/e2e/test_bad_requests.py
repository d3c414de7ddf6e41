"""Bad requests never stop the engine: each beside a good stream, which must finish unharmed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.api.client import CHAT, TEXT, Client, chat_body, text_body
from tests.e2e.conftest import SHORT_CONTEXT
from tests.e2e.prompts import COUNT_10, COUNT_100, COUNTED_10, COUNTED_100, SHORT_WORD
from tests.server import Server

CONTEXT = 8192
VOCABULARY = 640
Bad = tuple[str, dict[str, Any], str, str | None]
"""Path, body, code of the error, param."""


TOO_LONG = "word " * 9000

BAD: dict[str, Bad] = {
    "empty prompt": (TEXT, text_body("tiny", ""), "invalid_request", "prompt"),
    "no tokens": (TEXT, text_body("tiny", []), "invalid_request", "prompt"),
    "an empty one of several": (TEXT, text_body("tiny", ["fine", ""]), "invalid_request", "prompt"),
    "a long one of several": (
        TEXT,
        text_body("tiny", ["fine", TOO_LONG * 10]),
        "context_length_exceeded",
        "prompt",
    ),
    "token id out of range": (TEXT, text_body("tiny", [1, VOCABULARY]), "invalid_request", "prompt"),
    "huge token id": (TEXT, text_body("tiny", [2**40]), "invalid_request", "prompt"),
    "negative token id": (TEXT, text_body("tiny", [-1]), "invalid_request", "prompt[0]"),
    "stop is a number": (CHAT, chat_body("tiny", "Hi", stop=[1]), "invalid_request", "stop[0]"),
    "empty stop": (CHAT, chat_body("tiny", "Hi", stop=[""]), "unsupported_stop_string", "stop"),
    "stop id out of range": (
        CHAT,
        chat_body("tiny", "Hi", stop_token_ids=[VOCABULARY]),
        "invalid_request",
        "stop_token_ids",
    ),
    "biased id out of range": (
        CHAT,
        chat_body("tiny", "Hi", logit_bias={str(VOCABULARY): 1}),
        "invalid_request",
        "logit_bias",
    ),
    "template refuses": (
        CHAT,
        chat_body("tiny-strict", [{"role": "assistant", "content": "I begin."}]),
        "template_error",
        "messages",
    ),
    "template argument of ours": (
        CHAT,
        chat_body("tiny", "Hi", chat_template_kwargs={"tokenize": False}),
        "unsupported_parameter",
        "chat_template_kwargs.tokenize",
    ),
    "prompt longer than the context": (
        CHAT,
        chat_body("tiny", TOO_LONG),
        "context_length_exceeded",
        "messages",
    ),
    "completion prompt longer than the context": (
        TEXT,
        text_body("tiny", [5] * CONTEXT),
        "context_length_exceeded",
        "prompt",
    ),
}

ODD: dict[str, dict[str, Any]] = {
    "top_k above the vocabulary": {"top_k": 1_000_000, "temperature": 1.0},
    "top_k is the vocabulary": {"top_k": VOCABULARY, "temperature": 1.0},
    "top_k off": {"top_k": -1, "temperature": 1.0},
    "top_p is zero": {"top_p": 0, "temperature": 1.0},
    "min_p is one": {"min_p": 1, "temperature": 1.0},
    "largest penalties": {"presence_penalty": 2, "frequency_penalty": 2, "repetition_penalty": 100},
    "smallest penalties": {"presence_penalty": -2, "frequency_penalty": -2, "repetition_penalty": 0.01},
    "every bias": {"logit_bias": {str(token): -100 for token in range(VOCABULARY)}},
    "largest seed": {"seed": 2**63 - 1, "temperature": 1.0},
    "negative seed": {"seed": -1, "temperature": 1.0},
    "tiny temperature": {"temperature": 1e-30},
    "more tokens than there are": {"max_tokens": 10**15, "stop": ["e"]},
    "arguments that are no JSON": {},
}


@pytest.fixture(scope="module")
def pids(real_server: Server) -> dict[str, int]:
    """The workers before all the bad requests."""
    client = Client(real_server.url)
    for name in ("tiny", "tiny-strict"):
        client.post(f"/pool/{name}/load")
    return {name: model["pid"] for name, model in client.pool().items()}


def check_unharmed(client: Client, pids: dict[str, int]) -> None:
    models = client.pool()
    assert {name: models[name]["pid"] for name in ("tiny", "tiny-strict")} == {
        name: pids[name] for name in ("tiny", "tiny-strict")
    }
    # One word, asked 44 times. The stream beside the next bad request is the long text that comes after.
    assert client.chat("tiny", SHORT_WORD)["choices"][0]["message"]["content"] == "Yes"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_request_is_a_400_beside_a_good_stream(
    client: Client, pids: dict[str, int], bad: Bad, stream: bool
) -> None:
    path, body, code, param = bad
    with client.background("tiny", COUNT_10) as good:
        good.wait_begun()
        reply = client.post(path, {**body, "stream": stream})
        assert reply.status == 400, reply.body
        assert (reply.error["type"], reply.error["code"]) == ("invalid_request_error", code)
        assert reply.error["param"] == param
        assert good.result().content == COUNTED_10
    check_unharmed(client, pids)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_odd_parameters_are_honoured_and_harm_nobody(
    client: Client, pids: dict[str, int], odd: dict[str, Any]
) -> None:
    with client.background("tiny", COUNT_10) as good:
        good.wait_begun()
        reply = client.chat("tiny", SHORT_WORD, **{"max_tokens": 5, **odd})
        assert reply["choices"][0]["finish_reason"] in ("stop", "length")
        assert good.result().content == COUNTED_10
    check_unharmed(client, pids)


def test_tool_calls_with_arguments_that_are_no_json_are_accepted(
    client: Client, pids: dict[str, int]
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{no json"}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "", "tool_call_id": "c"},
    ]
    assert client.chat("tiny", messages, max_tokens=5)["choices"]
    check_unharmed(client, pids)


def test_a_prompt_equal_to_a_cached_one(client: Client, pids: dict[str, int]) -> None:
    tokens = [20, 5, 21, 5, 22, 5]
    first = client.text("tiny", tokens, max_tokens=4)
    again = [client.text("tiny", tokens, max_tokens=4) for _ in range(3)]
    one = client.text("tiny", [20], max_tokens=1)
    assert {reply["choices"][0]["text"] for reply in again} == {first["choices"][0]["text"]}
    assert again[0]["usage"]["prompt_tokens_details"]["cached_tokens"] == len(tokens) - 1
    assert one["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    # Longer by the reply, shorter by a token: both share what there is.
    shorter = client.text("tiny", tokens[:-1], max_tokens=1)["usage"]["prompt_tokens_details"]
    assert shorter["cached_tokens"] == len(tokens) - 2
    check_unharmed(client, pids)


def test_both_numbers_are_in_the_message_of_a_prompt_that_is_too_long(client: Client) -> None:
    reply = client.post(TEXT, text_body("tiny", [5] * 9000))
    assert re.search(r"\b8192 tokens\b.*\b9000\b", reply.error["message"])


def test_a_prompt_that_just_fits_gets_its_one_token(client: Client, pids: dict[str, int]) -> None:
    reply = client.text("tiny-short", [5] * (SHORT_CONTEXT - 1), max_tokens=50)
    assert reply["usage"]["completion_tokens"] == 1
    assert reply["choices"][0]["finish_reason"] == "length"
    refused = client.post(TEXT, text_body("tiny-short", [5] * SHORT_CONTEXT))
    assert (refused.status, refused.error["code"]) == (400, "context_length_exceeded")
    check_unharmed(client, pids)


def test_without_max_tokens_half_of_the_context_is_filled_and_never_more_than_is_left(client: Client) -> None:
    ends_not = {"ignore_eos": True}
    half = client.text("tiny-short", [5] * 10, **ends_not)
    assert half["usage"]["completion_tokens"] == SHORT_CONTEXT // 2
    left = client.text("tiny-short", [5] * (SHORT_CONTEXT - 10), **ends_not)
    assert left["usage"]["completion_tokens"] == 10
    explicit = client.text("tiny-short", [5] * 10, max_tokens=10_000, **ends_not)
    assert explicit["usage"]["completion_tokens"] == SHORT_CONTEXT - 10
    assert {one["choices"][0]["finish_reason"] for one in (half, left, explicit)} == {"length"}


def test_all_bad_requests_between_the_tokens_of_one_good_stream(client: Client, pids: dict[str, int]) -> None:
    with client.background("tiny", COUNT_100, max_tokens=500) as good:
        good.wait_begun()
        for path, body, code, _ in BAD.values():
            assert client.post(path, body).error["code"] == code
        for odd in ODD.values():
            client.chat("tiny", SHORT_WORD, **{"max_tokens": 2, **odd})
        assert good.result().content == COUNTED_100
    check_unharmed(client, pids)
    assert client.chat("tiny", COUNT_10)["choices"][0]["message"]["content"] == COUNTED_10


# ---------------------------------------------------------------------------- names


def test_wrong_names_touch_no_process(client: Client, real_server: Server, pids: dict[str, int]) -> None:
    models = set(client.pool())
    with client.background("tiny", COUNT_10) as good:
        good.wait_begun()
        unknown = client.post(CHAT, chat_body("tinny", "Hi"))
        ambiguous = client.post(CHAT, chat_body("TINY-", "Hi"))
        assert good.result().content == COUNTED_10
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    assert "tiny" in unknown.error["message"]
    assert (ambiguous.status, ambiguous.error["code"]) == (400, "ambiguous_model")
    for name in ("tiny-copy", "tiny-short", "tiny-strict"):
        assert name in ambiguous.error["message"]
    assert set(client.pool()) == models
    assert set(pids.values()) <= set(real_server.worker_pids())
    check_unharmed(client, pids)
