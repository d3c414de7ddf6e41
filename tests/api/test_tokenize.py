"""POST /tokenize and POST /detokenize over HTTP, to the fake engine: its tokens are the text's bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlxk.api.tokenize import MAX_BODY_BYTES
from tests.api.client import Client, wait_until
from tests.server import Server

TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
ONE = "org/fake-one"
USER = [{"role": "user", "content": "hé"}]


def test_a_text_and_back(client: Client) -> None:
    reply = client.post(TOKENIZE, {"model": "fake-one", "prompt": "hé\x00"})
    assert reply.status == 200
    assert reply.json() == {"tokens": [104, 195, 169, 0], "count": 4, "max_model_len": 4096}
    again = client.post(DETOKENIZE, {"model": ONE, "tokens": reply.json()["tokens"]})
    assert again.json() == {"prompt": "hé\x00"}


def test_an_empty_text_has_no_tokens(client: Client) -> None:
    assert client.post(TOKENIZE, {"model": ONE, "prompt": ""}).json()["count"] == 0
    assert client.post(DETOKENIZE, {"model": ONE, "tokens": []}).json() == {"prompt": ""}


def test_names_of_tokens_are_given_if_asked_for(client: Client) -> None:
    reply = client.post(TOKENIZE, {"model": ONE, "prompt": "hi", "return_token_strs": True})
    assert reply.json()["token_strs"] == ["<68>", "<69>"]


def test_a_conversation_is_taken_like_a_chat_request(client: Client) -> None:
    """Its other fields are ignored, so that a client can count what it is about to send."""
    body = {"model": ONE, "messages": USER, "temperature": 0, "stream": True, "max_tokens": 5}
    reply = client.post(TOKENIZE, {**body, "tools": [{"type": "function", "function": {"name": "f"}}]})
    text = client.post(DETOKENIZE, {"model": ONE, "tokens": reply.json()["tokens"]}).json()["prompt"]
    assert json.loads(text) == USER


def test_part_of_a_character_becomes_a_replacement_character(client: Client) -> None:
    assert client.post(DETOKENIZE, {"model": ONE, "tokens": [195]}).json() == {"prompt": "\ufffd"}


def test_the_model_is_loaded_and_kept_as_asked(client: Client) -> None:
    client.request("DELETE", f"/pool/{ONE}")
    assert client.post(TOKENIZE, {"model": ONE, "prompt": "x", "keep_alive": -1}).status == 200
    model = client.pool()[ONE]
    assert (model["state"], model["until"]) == ("ready", -1)
    client.post(DETOKENIZE, {"model": ONE, "tokens": [1], "keep_alive": "1h"})
    assert 3000 < client.pool()[ONE]["until"] <= 3600


WRONG: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "neither": (TOKENIZE, {}, "invalid_request", "prompt"),
    "both": (TOKENIZE, {"prompt": "x", "messages": USER}, "invalid_request", "prompt"),
    "no messages": (TOKENIZE, {"messages": []}, "invalid_request", "messages"),
    "prompt is a list": (TOKENIZE, {"prompt": ["x"]}, "invalid_request", "prompt"),
    "unknown role": (TOKENIZE, {"messages": [{"role": "?"}]}, "invalid_request", "messages[0].role"),
    "lone surrogate": (TOKENIZE, {"prompt": "\ud800"}, "invalid_request", "prompt"),
    "image": (
        TOKENIZE,
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "unsupported_parameter",
        "messages[0].content[0]",
    ),
    "special tokens of a chat": (
        TOKENIZE,
        {"messages": USER, "add_special_tokens": True},
        "unsupported_parameter",
        "add_special_tokens",
    ),
    "a template": (
        TOKENIZE,
        {"messages": USER, "chat_template": "x"},
        "unsupported_parameter",
        "chat_template",
    ),
    "an unfinished message": (
        TOKENIZE,
        {"messages": USER, "continue_final_message": True},
        "unsupported_parameter",
        "continue_final_message",
    ),
    "a template argument of ours": (
        TOKENIZE,
        {"messages": USER, "chat_template_kwargs": {"tokenize": False}},
        "unsupported_parameter",
        "chat_template_kwargs.tokenize",
    ),
    "keep_alive": (TOKENIZE, {"prompt": "x", "keep_alive": "soon"}, "invalid_request", "keep_alive"),
    "no tokens": (DETOKENIZE, {}, "invalid_request", "tokens"),
    "too many messages": (TOKENIZE, {"messages": USER * 20_001}, "invalid_request", "messages"),
    "tokens are texts": (DETOKENIZE, {"tokens": ["1"]}, "invalid_request", "tokens[0]"),
    "negative token": (DETOKENIZE, {"tokens": [1, -1]}, "invalid_request", "tokens[1]"),
    "huge token": (DETOKENIZE, {"tokens": [2**63]}, "invalid_request", "tokens[0]"),
    "outside of the vocabulary": (DETOKENIZE, {"tokens": [256]}, "invalid_request", "tokens"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_cannot_be_honoured_is_named(
    client: Client, wrong: tuple[str, dict[str, Any], str, str]
) -> None:
    path, body, code, param = wrong
    reply = client.post(path, {"model": ONE, **body})
    assert reply.status == 400, reply.body
    assert (reply.error["code"], reply.error["param"]) == (code, param)


@pytest.mark.parametrize("path", [TOKENIZE, DETOKENIZE])
def test_models_are_named_as_everywhere(client: Client, path: str) -> None:
    body = {"prompt": "x", "tokens": [1]}
    unknown = client.post(path, {"model": "org/fake-noe", **body})
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    ambiguous = client.post(path, {"model": "FAKE", **body})
    assert (ambiguous.status, ambiguous.error["code"]) == (400, "ambiguous_model")
    assert client.post(path, body).error["param"] == "model"


@pytest.mark.parametrize("path", [TOKENIZE, DETOKENIZE])
def test_a_body_of_megabytes_is_a_413(client: Client, path: str) -> None:
    body = b'{"model":"tiny","prompt":"' + b"x" * MAX_BODY_BYTES + b'"}'
    reply = client.post(path, body)
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")


def test_the_access_log_has_a_line_with_the_count(client: Client, fake_server: Server) -> None:
    reply = client.post(TOKENIZE, {"model": ONE, "prompt": "four"}, headers={"X-Request-ID": "tok-4"})
    assert reply.headers["x-request-id"] == "tok-4"
    lines = wait_until(lambda: [line for line in fake_server.log().splitlines() if "tok-4" in line])
    (line,) = lines
    assert f"model={ONE}" in line
    assert "prompt=4" in line


def test_requests_with_the_same_id_are_told_apart(client: Client) -> None:
    """The X-Request-ID is the client's: it may send the same one twice at the same time."""
    headers = {"X-Request-ID": "twice"}
    with client.background(ONE, "go", max_tokens=200) as busy:
        busy.wait_begun()
        replies = [client.post(TOKENIZE, {"model": ONE, "prompt": text}, headers=headers) for text in "ab"]
        busy.result()
    assert [reply.json()["tokens"] for reply in replies] == [[97], [98]]
