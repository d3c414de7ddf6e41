"""Several choices in one answer: `n`, lists of prompts, both."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.client import CHAT, TEXT, Client, chat_body


def test_n_gives_so_many_choices_and_counts_the_prompt_once(client: Client) -> None:
    one = client.chat("tiny", "Hi there", max_tokens=3)
    two = client.chat("tiny", "Hi there", max_tokens=3, n=2)
    assert [choice["index"] for choice in two["choices"]] == [0, 1]
    assert {choice["message"]["content"] for choice in two["choices"]} == {"w0 w1 w2"}
    assert two["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert two["usage"]["completion_tokens"] == 6
    assert two["usage"]["total_tokens"] == two["usage"]["prompt_tokens"] + 6


@pytest.mark.parametrize(
    "prompts", [["one", "two", "three"], [[1, 2], [3], [4, 5, 6]]], ids=["strings", "token ids"]
)
def test_a_list_of_prompts_gives_a_choice_for_each(client: Client, prompts: list[Any]) -> None:
    reply = client.text("tiny", prompts, max_tokens=2)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert [choice["text"] for choice in reply["choices"]] == ["w0 w1"] * 3
    alone = [client.text("tiny", prompt, max_tokens=2)["usage"]["prompt_tokens"] for prompt in prompts]
    assert reply["usage"]["prompt_tokens"] == sum(alone)
    assert reply["usage"]["completion_tokens"] == 6


def test_token_ids_are_one_prompt(client: Client) -> None:
    assert len(client.text("tiny", [1, 2, 3], max_tokens=1)["choices"]) == 1


def test_prompts_times_n_come_prompt_by_prompt(client: Client) -> None:
    reply = client.text("tiny", ["one", "two"], n=3, max_tokens=1)
    assert [choice["index"] for choice in reply["choices"]] == list(range(6))


def test_more_choices_than_a_batch_are_refused(client: Client) -> None:
    reply = client.post(TEXT, {"model": "tiny", "prompt": ["x"] * 5, "n": 13})
    assert (reply.status, reply.error["param"]) == (400, "prompt")


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_stream_of_two_choices_interleaves_whole_streams(client: Client, path: str) -> None:
    body = chat_body("tiny", "Hi", n=2) if path == CHAT else {"model": "tiny", "prompt": ["a", "b"]}
    with client.stream(path, {**body, "max_tokens": 3}) as stream:
        choices = [event["choices"][0] for event in stream]
        assert stream.done
    for index in (0, 1):
        own = [choice for choice in choices if choice["index"] == index]
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + ["length"]
        if path == CHAT:
            assert [bool(choice["delta"].get("role")) for choice in own].count(True) == 1
            assert own[0]["delta"] == {"role": "assistant"}
            text = "".join(choice["delta"].get("content", "") for choice in own)
        else:
            text = "".join(choice["text"] for choice in own)
        assert text == "w0 w1 w2"


def test_a_stream_begins_when_every_prompt_was_taken(client: Client) -> None:
    """The second is so long that it is looked at while the first one speaks already."""
    late = "refuse me, but take your time over it " * 2000
    body = {"model": "org/fussy", "prompt": ["fine", late], "max_tokens": 3, "stream": True}
    # Not also its load: ten seconds of silence begin a stream, whatever comes then.
    assert client.post("/pool/org/fussy/load").status == 200
    reply = client.post(TEXT, body)
    assert (reply.status, reply.error["code"]) == (500, "engine_error"), reply.body
    with client.stream(TEXT, {**body, "prompt": ["fine", late.replace("refuse", "take")]}) as stream:
        texts = ["", ""]
        for event in stream:
            for choice in event["choices"]:
                texts[choice["index"]] += choice["text"]
    assert texts == ["w0 w1 w2"] * 2


def test_usage_comes_once_with_the_last_final_chunk(client: Client) -> None:
    with client.stream(CHAT, chat_body("tiny", "Hi", n=3, max_tokens=2)) as stream:
        events = list(stream)
    assert ["usage" in event for event in events].count(True) == 1
    assert events[-1]["usage"]["completion_tokens"] == 6
