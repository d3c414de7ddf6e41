"""Seed 001's twenty cases, and what it could not do: strings that span tokens or start inside one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.api.client import Client
from tests.e2e.prompts import COUNT_10, COUNTED_10, GO_ON, WEATHER, WENT_ON, user

FIVE, SIX = 20, 21
"""Token ids of "5" and "6", in `tiny` as in Qwen3."""

END_OF_TEXT = 631
"""Ends a raw completion."""

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


MULTI_AND_IDS = {"stop": ["hello world"], "stop_token_ids": [FIVE, SIX]}
SEED_CHAT = {
    "1 one-token string": Case(COUNT_10, {"stop": ["6"]}, counted(5), "6"),
    "2 multi-token string": Case(CHAT_SAY, {"stop": ["hello world"]}, "hi there and ", "hello world"),
    "3 token ids": Case(COUNT_10, {"stop_token_ids": [FIVE, SIX]}, counted(4), FIVE),
    "4 string and id": Case(COUNT_10, {"stop": ["6"], "stop_token_ids": [FIVE]}, counted(4), FIVE),
    "5 multi-token string and ids": Case(COUNT_10, MULTI_AND_IDS, counted(4), FIVE),
}
SEED_TEXT = {
    "1 one-token string": Case(GO_ON, {"stop": ["6"]}, "5\n", "6"),
    "2 multi-token string": Case(CHAT_REPEAT, {"stop": ["hello world"]}, "\n1 2 3 ", "hello world"),
    "3 token ids": Case(GO_ON, {"stop_token_ids": [FIVE, SIX]}, "", FIVE),
    "4 string and id": Case(GO_ON, {"stop": ["6"], "stop_token_ids": [FIVE]}, "", FIVE),
    "5 multi-token string and ids": Case(GO_ON, MULTI_AND_IDS, "", FIVE),
}
SEED_MATRIX = {
    f"3.{path}.{name}": (endpoint, stream, case)
    for path, (endpoint, stream, table) in enumerate(
        [
            ("chat", False, SEED_CHAT),
            ("chat", True, SEED_CHAT),
            ("completion", False, SEED_TEXT),
            ("completion", True, SEED_TEXT),
        ],
        start=1,
    )
    for name, case in table.items()
}
"""The seed's matrix by its own numbers: four paths by five kinds of stops. Where it has 400 (3.x.2, 3.x.5)
we stop (docs/decisions/0002)."""


@pytest.mark.parametrize(("endpoint", "stream", "case"), SEED_MATRIX.values(), ids=SEED_MATRIX)
def test_the_twenty_cases_of_the_seed(client: Client, endpoint: str, stream: bool, case: Case) -> None:
    fields = {"max_tokens": 100, **case.stops}
    if stream:
        ask = client.stream_chat if endpoint == "chat" else client.stream_text
        answer = ask("tiny", case.prompt, **fields)
        assert answer.kinds[-1] == "final"
        assert answer.done
        got = (answer.content, answer.finish_reason, answer.matched_stop)
    elif endpoint == "chat":
        choice = client.chat("tiny", case.prompt, **fields)["choices"][0]
        got = (choice["message"]["content"], choice["finish_reason"], choice.get("matched_stop"))
    else:
        choice = client.text("tiny", case.prompt, **fields)["choices"][0]
        got = (choice["text"], choice["finish_reason"], choice.get("matched_stop"))
    assert got == (case.text, "stop", case.matched)
    assert type(got[2]) is type(case.matched)


def test_the_seeds_matrix_is_whole() -> None:
    assert len(SEED_MATRIX) == 20


def check(choice: dict[str, Any], case: Case) -> None:
    assert choice["finish_reason"] == "stop"
    if case.matched is None:
        assert "matched_stop" not in choice
    else:
        assert choice["matched_stop"] == case.matched
        assert type(choice["matched_stop"]) is type(case.matched)


CORNERS = {
    "over the prompt's end": Case(GO_ON, {"stop": ["4\n5"]}, WENT_ON, None),
    "at the very first character": Case(GO_ON, {"stop": ["5"]}, "", "5"),
    "one begins first, the other ends first": Case(GO_ON, {"stop": ["6\n7\n8", "7"]}, "5\n6\n", "7"),
    "both end together, the longer counts": Case(GO_ON, {"stop": ["\n7", "6\n7"]}, "5\n", "6\n7"),
    "a string and an id at the same token: the token": Case(
        GO_ON, {"stop": ["6"], "stop_token_ids": [SIX]}, "5\n", SIX
    ),
    "the text of the end token": Case(GO_ON, {"stop": ["<|endoftext|>"]}, WENT_ON, "<|endoftext|>"),
    "the text of the end token, which is to be ignored": Case(
        GO_ON, {"stop": ["<|endoftext|>"], "ignore_eos": True}, WENT_ON, "<|endoftext|>"
    ),
    "the end token's id, which is to be ignored": Case(
        GO_ON, {"stop_token_ids": [END_OF_TEXT], "ignore_eos": True}, WENT_ON, END_OF_TEXT
    ),
}


@pytest.mark.parametrize("case", CORNERS.values(), ids=CORNERS)
def test_corners(client: Client, case: Case) -> None:
    choice = client.text("tiny", case.prompt, max_tokens=100, **case.stops)["choices"][0]
    answer = client.stream_text("tiny", case.prompt, max_tokens=100, **case.stops)
    assert choice["text"] == answer.content == case.text
    assert answer.matched_stop == case.matched
    check(choice, case)


def test_a_stop_within_a_character_of_several_code_points(client: Client) -> None:
    """The joiner of a family, whose bytes are tokens of their own."""
    whole = client.chat("tiny", "Reply with a family emoji.")["choices"][0]["message"]["content"]
    assert "\u200d" in whole
    answer = client.stream_chat("tiny", "Reply with a family emoji.", stop=["\u200d"])
    assert (answer.content, answer.matched_stop) == (whole.partition("\u200d")[0], "\u200d")


WEATHER_IN = "You must call the weather tool for Berlin. Do not answer directly."


def test_a_stop_inside_of_a_call_leaves_the_text_before_it(client: Client) -> None:
    fields: dict[str, Any] = {"tools": [WEATHER], "stop": ["Berlin"], "max_tokens": 60}
    answer = client.stream_chat("tiny", WEATHER_IN, **fields)
    choice = client.chat("tiny", WEATHER_IN, **fields)["choices"][0]
    assert answer.content == choice["message"]["content"]
    assert answer.content == '<tool_call>\n{"name": "weather", "arguments": {"city": "'
    assert (answer.tool_calls, answer.finish_reason, answer.matched_stop) == ([], "stop", "Berlin")


def test_a_stop_behind_a_whole_call_keeps_the_call(client: Client) -> None:
    fields: dict[str, Any] = {"tools": [WEATHER], "stop": ["</tool_call>"], "max_tokens": 60}
    answer = client.stream_chat("tiny", WEATHER_IN, **fields)
    assert [call["function"]["name"] for call in answer.tool_calls] == ["weather"]
    assert (answer.finish_reason, answer.matched_stop) == ("tool_calls", "</tool_call>")
    choice = client.chat("tiny", WEATHER_IN, **fields)["choices"][0]
    assert (choice["finish_reason"], choice["matched_stop"]) == ("tool_calls", "</tool_call>")


def test_a_call_that_max_tokens_cuts_is_text(client: Client) -> None:
    choice = client.chat("tiny", WEATHER_IN, tools=[WEATHER], max_tokens=12)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert "tool_calls" not in choice["message"]
    assert choice["message"]["content"].startswith("<tool_call>\n{")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stop", ["", [""], ["6", ""], "\ud800", ["6", "a\udfff"]])
def test_a_stop_that_cannot_be_honoured_is_refused_before_any_token(
    client: Client, path: str, stream: bool, stop: str | list[str]
) -> None:
    source = {"prompt": GO_ON} if path == "/v1/completions" else {"messages": [user(COUNT_10)]}
    reply = client.post(path, {"model": "tiny", "stop": stop, "stream": stream, **source})
    assert (reply.status, reply.error["code"]) == (400, "unsupported_stop_string")
    assert reply.error["param"] == "stop"


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
