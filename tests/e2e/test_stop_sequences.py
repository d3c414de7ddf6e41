"""Seed 001's twenty cases, and what it could not do: strings that span tokens or start inside one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.api.client import Client
from tests.e2e.prompts import COUNT_10, COUNTED_10, GO_ON, WENT_ON

FIVE, SIX = 20, 21
"""Token ids of "5" and "6", in `tiny` as in Qwen3."""

CHAT_SAY = "Say: hi there and hello world!"
CHAT_REPEAT = "Repeat exactly: 1 2 3 hello world 4 5"


def counted(last: int) -> str:
    """The reply up to this number, with the line break after it."""
    return "".join(f"{n}  \n" for n in range(1, last + 1))


@dataclass(frozen=True)
class Case:
    prompt: str
    stops: dict[str, Any]
    text: str
    matched: str | int | None


CHAT_CASES = {
    "string": Case(COUNT_10, {"stop": ["6"]}, counted(5), "6"),
    "a string that is no list": Case(COUNT_10, {"stop": "6"}, counted(5), "6"),
    "multi-token string": Case(CHAT_SAY, {"stop": ["hello world"]}, "hi there and ", "hello world"),
    "multi-token string, repeated": Case(CHAT_REPEAT, {"stop": ["hello world"]}, "1 2 3 ", "hello world"),
    "token ids": Case(COUNT_10, {"stop_token_ids": [FIVE, SIX]}, counted(4), FIVE),
    "string and id, the id first": Case(
        COUNT_10, {"stop": ["6"], "stop_token_ids": [FIVE]}, counted(4), FIVE
    ),
    "string and id, the string first": Case(
        COUNT_10, {"stop": ["5"], "stop_token_ids": [SIX]}, counted(4), "5"
    ),
    "multi-token string and ids": Case(
        COUNT_10, {"stop": ["hello world"], "stop_token_ids": [FIVE, SIX]}, counted(4), FIVE
    ),
    "multi-token string before the ids": Case(
        COUNT_10, {"stop": ["3  \n4"], "stop_token_ids": [FIVE]}, counted(2), "3  \n4"
    ),
    "starts inside a token": Case(CHAT_SAY, {"stop": ["re and"]}, "hi the", "re and"),
    "two strings, the one that is complete first": Case(COUNT_10, {"stop": ["7  \n8", "7"]}, counted(6), "7"),
    "a line break": Case(COUNT_10, {"stop": ["\n"]}, "1  ", "\n"),
    "never matches": Case(COUNT_10, {"stop": ["10x", "11", "0  "]}, COUNTED_10, None),
    "sixteen": Case(COUNT_10, {"stop": [f"x{n}" for n in range(15)] + ["8"]}, counted(7), "8"),
}

TEXT_CASES = {
    "string": Case(GO_ON, {"stop": ["6"]}, "5\n", "6"),
    "multi-token string": Case(CHAT_REPEAT, {"stop": ["hello world"]}, "\n1 2 3 ", "hello world"),
    "multi-token string, counted": Case(GO_ON, {"stop": ["7\n8"]}, "5\n6\n", "7\n8"),
    "token ids": Case(GO_ON, {"stop_token_ids": [FIVE, SIX]}, "", FIVE),
    "string and id": Case(GO_ON, {"stop": ["6"], "stop_token_ids": [FIVE]}, "", FIVE),
    "multi-token string and ids": Case(
        GO_ON, {"stop": ["hello world"], "stop_token_ids": [FIVE, SIX]}, "", FIVE
    ),
    "never matches": Case(GO_ON, {"stop": ["1\n"]}, WENT_ON, None),
}


def check(choice: dict[str, Any], case: Case) -> None:
    assert choice["finish_reason"] == "stop"
    if case.matched is None:
        assert "matched_stop" not in choice
    else:
        assert choice["matched_stop"] == case.matched
        assert type(choice["matched_stop"]) is type(case.matched)


@pytest.mark.parametrize("case", CHAT_CASES.values(), ids=CHAT_CASES)
def test_chat_stops(client: Client, case: Case) -> None:
    choice = client.chat("tiny", case.prompt, max_tokens=100, **case.stops)["choices"][0]
    assert choice["message"]["content"] == case.text
    check(choice, case)


@pytest.mark.parametrize("case", CHAT_CASES.values(), ids=CHAT_CASES)
def test_streamed_chat_stops(client: Client, case: Case) -> None:
    answer = client.stream_chat("tiny", case.prompt, max_tokens=100, **case.stops)
    assert answer.content == case.text
    assert (answer.finish_reason, answer.matched_stop) == ("stop", case.matched)
    assert (answer.roles, answer.done) == (1, True)


@pytest.mark.parametrize("case", TEXT_CASES.values(), ids=TEXT_CASES)
def test_completion_stops(client: Client, case: Case) -> None:
    choice = client.text("tiny", case.prompt, max_tokens=100, **case.stops)["choices"][0]
    assert choice["text"] == case.text
    check(choice, case)


@pytest.mark.parametrize("case", TEXT_CASES.values(), ids=TEXT_CASES)
def test_streamed_completion_stops(client: Client, case: Case) -> None:
    answer = client.stream_text("tiny", case.prompt, max_tokens=100, **case.stops)
    assert answer.content == case.text
    assert (answer.finish_reason, answer.matched_stop) == ("stop", case.matched)
    assert answer.done


def test_a_stop_in_the_thoughts_ends_the_reply(client: Client) -> None:
    answer = client.stream_chat("tiny", "Think: what is 2 + 3?", stop=["makes"], max_tokens=100)
    assert answer.reasoning == "I add 3 to 2. That"
    assert (answer.content, answer.matched_stop) == ("", "makes")


def test_a_natural_end_and_a_full_reply_have_no_matched_stop(client: Client) -> None:
    full = client.chat("tiny", COUNT_10, max_tokens=4, stop=["9"])["choices"][0]
    assert full["finish_reason"] == "length"
    assert "matched_stop" not in full


def test_the_end_token_as_a_stop_id_is_reported(client: Client) -> None:
    choice = client.chat("tiny", "Hello", stop_token_ids=[633], ignore_eos=True, max_tokens=60)["choices"][0]
    assert choice["message"]["content"] == "Hello! How can I help you?"
    assert (choice["finish_reason"], choice["matched_stop"]) == ("stop", 633)


def test_ignore_eos_goes_on_to_max_tokens(client: Client) -> None:
    reply = client.chat("tiny", "Hello", ignore_eos=True, max_tokens=40)
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 40
