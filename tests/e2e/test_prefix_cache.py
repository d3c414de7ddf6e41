"""The prefix cache tests of seed 000: each later request reuses what the earlier ones have computed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.api.client import CHAT, Client, chat_body
from tests.api.streams import Answer
from tests.e2e.prompts import (
    BERLIN,
    COUNT_COMMAS,
    GRASS,
    PARIS,
    SHORT_WORD,
    SKY,
    SNOW,
    WEATHER,
    Message,
    assistant,
    called,
    tool_result,
    user,
)
from tests.server import Server

MODEL = "tiny-copy"
"""Not `tiny`: other modules' tests have filled its cache. No two tests here begin with the same prompt."""

HEAD = 8
"""Fewer tokens than this are shared by prompts that have nothing in common: the template's beginning."""


class Counters:
    """`entries`, `hits` and `reused_tokens` of the model, and whether they grow."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._before = self._read()

    def _read(self) -> dict[str, int]:
        return self._client.cache(MODEL)

    def wait_growth(self, *names: str) -> None:
        """Since the last call, each of these has grown."""
        before = self._before

        def grown(models: dict[str, dict[str, Any]]) -> bool:
            return all(models[MODEL]["cache"][name] > before[name] for name in names)

        self._client.wait_pool(grown)
        self._before = self._read()


@pytest.fixture(scope="module")
def fresh_process(real_server: Server) -> None:
    """Nothing is cached."""
    client = Client(real_server.url)
    client.request("DELETE", f"/pool/{MODEL}")
    client.post(f"/pool/{MODEL}/load")


@pytest.fixture
def counters(client: Client, fresh_process: None) -> Counters:
    return Counters(client)


def ask(client: Client, messages: list[Message], max_tokens: int, **fields: Any) -> Answer:
    """A streamed turn, with what holds for every stream."""
    answer = client.stream_chat(MODEL, messages, top_p=1, max_tokens=max_tokens, **fields)
    assert answer.roles == 1
    assert answer.done
    assert answer.usage is not None
    assert answer.usage["prompt_tokens"] > 0
    return answer


def check_text(answer: Answer, text: str) -> None:
    assert (answer.finish_reason, answer.content, answer.tool_calls) == ("stop", text, [])


def check_call(answer: Answer, city: str) -> dict[str, Any]:
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.tool_calls
    assert (call["index"], call["type"]) == (0, "function")
    assert call["id"]
    assert call["function"] == {"name": "weather", "arguments": f'{{"city": "{city}"}}'}
    return dict(call)


def computed(answer: Answer) -> int:
    """Tokens whose keys and values that request has left behind: all but the end token, which was sampled
    and never fed."""
    assert answer.usage is not None
    return int(answer.usage["prompt_tokens"] + answer.usage["completion_tokens"] - 1)


def test_the_same_prompt_twice_is_computed_once(client: Client, counters: Counters) -> None:
    first = client.chat(MODEL, SHORT_WORD, top_p=1, max_tokens=1)
    assert len(first["choices"]) == 1
    assert first["choices"][0]["message"]["role"] == "assistant"
    assert first["usage"]["prompt_tokens"] > 0
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] < HEAD
    counters.wait_growth("entries", "bytes")
    second = client.chat(MODEL, SHORT_WORD, top_p=1, max_tokens=1)
    counters.wait_growth("hits", "reused_tokens")
    # All but one: the last token must be computed to have something to sample from.
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == second["usage"]["prompt_tokens"] - 1
    assert second["choices"][0]["message"] == first["choices"][0]["message"]


def test_a_conversation_that_grows_reuses_its_past(client: Client, counters: Counters) -> None:
    messages = [user(SKY)]
    first = ask(client, messages, 3)
    check_text(first, "Blue")
    counters.wait_growth("entries")
    messages += [assistant(first.content), user(GRASS)]
    second = ask(client, messages, 3)
    check_text(second, "Green")
    counters.wait_growth("hits", "reused_tokens")
    messages += [assistant(second.content), user(SNOW)]
    third = ask(client, messages, 3)
    check_text(third, "White")
    counters.wait_growth("hits", "reused_tokens")
    assert first.cached_tokens < HEAD
    assert second.cached_tokens >= computed(first)
    assert third.cached_tokens >= computed(second)


def test_a_tool_call_and_its_result_reuse_the_past(client: Client, counters: Counters) -> None:
    messages = [user("You must call the weather tool for Berlin. Do not answer directly.")]
    first = ask(client, messages, 48, tools=[WEATHER])
    call = check_call(first, "Berlin")
    counters.wait_growth("entries")
    messages += [called(call), tool_result(call, BERLIN)]
    second = ask(client, messages, 16, tools=[WEATHER])
    check_text(second, "It is 19 degrees and sunny.")
    counters.wait_growth("hits", "reused_tokens")
    messages += [assistant(second.content), user("Now compress that answer to two words.")]
    third = ask(client, messages, 8, tools=[WEATHER])
    check_text(third, "Sunny weather")
    counters.wait_growth("hits", "reused_tokens")
    assert second.cached_tokens >= computed(first)
    assert third.cached_tokens >= computed(second)


def test_several_tool_turns_reuse_the_past(client: Client, counters: Counters) -> None:
    messages = [user("Call the weather tool for Berlin. Do not answer directly.")]
    turns = [ask(client, messages, 48, tools=[WEATHER])]
    berlin = check_call(turns[-1], "Berlin")
    counters.wait_growth("entries")
    messages += [called(berlin), tool_result(berlin, BERLIN)]
    turns.append(ask(client, messages, 16, tools=[WEATHER]))
    check_text(turns[-1], "It is 19 degrees and sunny.")
    counters.wait_growth("hits", "reused_tokens")
    messages += [
        assistant(turns[-1].content),
        user("Now call the weather tool for Paris. Do not answer directly."),
    ]
    turns.append(ask(client, messages, 48, tools=[WEATHER]))
    paris = check_call(turns[-1], "Paris")
    assert paris["id"] != berlin["id"]
    counters.wait_growth("hits", "reused_tokens")
    messages += [called(paris), tool_result(paris, PARIS)]
    turns.append(ask(client, messages, 16, tools=[WEATHER]))
    check_text(turns[-1], "It is 21 degrees and clear.")
    counters.wait_growth("hits", "reused_tokens")
    for before, after in itertools.pairwise(turns):
        assert after.cached_tokens >= computed(before)


def test_a_client_that_disconnects_leaves_its_prefix(client: Client, counters: Counters) -> None:
    body = chat_body(MODEL, COUNT_COMMAS, top_p=1, max_tokens=64)
    with client.stream(CHAT, body) as stream:
        stream.first_content()
    counters.wait_growth("entries")
    client.wait_pool(lambda models: models[MODEL]["in_flight"] == 0)
    reply = client.chat(MODEL, COUNT_COMMAS, top_p=1, max_tokens=8)
    counters.wait_growth("hits", "reused_tokens")
    usage = reply["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


def test_tool_call_chunks_come_in_openai_s_order(client: Client) -> None:
    messages = [user("Call the weather tool for Berlin. Do not answer directly.")]
    answer = ask(client, messages, 48, tools=[WEATHER])
    assert answer.kinds[0] == "role"
    assert answer.kinds.count("role") == 1
    assert "tool_call" in answer.kinds
    assert answer.kinds.index("final") == len(answer.kinds) - 1
    assert answer.finish_reason == "tool_calls"
    assert answer.usage is not None
    check_call(answer, "Berlin")


def test_two_tool_calls_in_one_reply_have_indices_and_ids(client: Client) -> None:
    answer = ask(client, [user("Call the weather tool for Berlin and Paris.")], 64, tools=[WEATHER])
    assert [call["index"] for call in answer.tool_calls] == [0, 1]
    assert len({call["id"] for call in answer.tool_calls}) == 2
    # Each call in two steps, as OpenAI sends it: its name, then its arguments.
    assert answer.kinds == ["role", *["tool_call"] * 4, "final"]
    assert answer.finish_reason == "tool_calls"


def test_thinking_is_part_of_the_reused_past(client: Client, counters: Counters) -> None:
    """A client that sends the reasoning back gets it reused."""
    messages = [user("Think: what is 2 + 3?")]
    first = ask(client, messages, 64)
    assert (first.content, bool(first.reasoning)) == ("2 + 3 = 5", True)
    messages += [{**assistant(first.content), "reasoning_content": first.reasoning}, user(SKY)]
    second = ask(client, messages, 3)
    assert second.cached_tokens >= computed(first)


def test_caches_that_cannot_be_trimmed_are_reused_at_the_ends_of_turns(client: Client) -> None:
    """gemma3's caches rotate: what was computed past a turn's end cannot be cut off again."""
    messages = [user("One. " * 20)]
    fields = {"max_tokens": 8, "ignore_eos": True}
    first = client.stream_chat("random", messages, **fields)
    again = client.stream_chat("random", messages, **fields)
    assert again.content == first.content
    assert first.usage is not None
    prompt_tokens = first.usage["prompt_tokens"]
    assert again.cached_tokens >= prompt_tokens - HEAD
    messages += [assistant("Whatever it said."), user("Two. " * 20)]
    grown = client.stream_chat("random", messages, **fields)
    assert grown.cached_tokens >= prompt_tokens - HEAD
