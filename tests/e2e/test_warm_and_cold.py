"""Over HTTP: with a warm cache, a small one and none at all `tiny` says the same, and the counts add up."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api.client import CHAT, Client, chat_body
from tests.api.streams import Answer
from tests.e2e.prompts import (
    BERLIN,
    COUNT_10,
    COUNT_COMMAS,
    ENDLESS,
    GRASS,
    PARIS,
    SKY,
    SNOW,
    WEATHER,
    Message,
    assistant,
    called,
    expected_cases,
    tool_result,
    user,
)
from tests.server import Server, standing

MODEL = "tiny"
SMALL_BYTES = 600_000
"""Of `tiny`'s cache: one longer conversation or a few short ones, and less than those of these tests."""
AT_ONCE = 4
KINDS = ("color", "greeting", "emoji", "system", "tool", "tool_answer", "tool_unused", "think", "no_think")
CASES = [next(case for case in expected_cases() if case["kind"] == kind) for kind in KINDS]
"""One of each. `test_answers.py` asks for all prompts, each twice, and knows what must come."""


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Remembers nothing, and runs one request at a time."""
    environment = {"MLXK_CACHE": "0", "MLXK_MAX_BATCH": "1", "MLXK_SPARE": "0"}
    with standing(Server(tmp_path_factory.mktemp("cold"), env=environment)) as server:
        yield Client(server.url)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Has room for little, and runs one request at a time: the others wait in the worker's queue."""
    home = tmp_path_factory.mktemp("small")
    (home / "config.toml").write_text("[models.tiny.options]\nmax_batch = 1\n")
    with standing(Server(home, env={"MLXK_CACHE": str(SMALL_BYTES), "MLXK_SPARE": "0"})) as server:
        yield Client(server.url)


@pytest.fixture
def clients(cold: Client, small: Client, client: Client) -> dict[str, Client]:
    return {"cold": cold, "small": small, "warm": client}


def said(message: Message) -> tuple[Any, ...]:
    calls = [
        (call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()
    ]
    return message["content"] or "", message.get("reasoning_content") or "", calls


def answered(answer: Answer) -> tuple[Any, ...]:
    return answer.content, answer.reasoning, [tuple(call["function"].values()) for call in answer.tool_calls]


class Ledger:
    """What the replies say of the cache, to be compared with what /pool counts of it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        client.post(f"/pool/{MODEL}/load")
        self._before = client.cache(MODEL)
        self.requests = self.hits = self.reused = 0

    def add(self, usage: dict[str, Any] | None) -> int:
        assert usage is not None
        cached = int(usage["prompt_tokens_details"]["cached_tokens"])
        assert 0 <= cached < usage["prompt_tokens"]
        self.requests += 1
        self.hits += cached > 0
        self.reused += cached
        return cached

    def settle(self) -> None:
        """Everything that was asked has been counted, and nothing else."""
        wanted = {"hits": self.hits, "misses": self.requests - self.hits, "reused_tokens": self.reused}

        def counted(models: dict[str, dict[str, Any]]) -> bool:
            now = models[MODEL]["cache"]
            return {name: now[name] - self._before[name] for name in wanted} == wanted

        self._client.wait_pool(counted)


def small_bytes(client: Client) -> int:
    return int(client.pool()[MODEL]["cache"]["bytes"])


def test_listed_prompts_say_the_same_cold_warm_and_short_of_room(clients: dict[str, Client]) -> None:
    """Each twice, in a random order, several at once: with system prompts, tools and without, mixed."""
    cases = CASES * 2
    random.Random(4).shuffle(cases)
    texts = {}
    for name, client in clients.items():
        ledger = Ledger(client)

        def ask(case: dict[str, Any], client: Client = client) -> dict[str, Any]:
            fields = {
                key: case[key] for key in ("tools", "chat_template_kwargs", "max_tokens") if key in case
            }
            return client.chat(MODEL, case["messages"], **fields)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            replies = list(pool.map(ask, cases))
        cached = [ledger.add(reply["usage"]) for reply in replies]
        ledger.settle()
        texts[name] = [said(reply["choices"][0]["message"]) for reply in replies]
        assert (sum(cached) == 0) == (name == "cold")
    assert small_bytes(clients["small"]) <= SMALL_BYTES
    assert texts["warm"] == texts["cold"]
    assert texts["small"] == texts["cold"]


# -------------------------------------------------------------------- conversations


def colours(client: Client) -> Iterator[tuple[Answer, bool]]:
    messages: list[Message] = []
    for question in (SKY, GRASS, SNOW, COUNT_10):
        messages.append(user(question))
        answer = client.stream_chat(MODEL, messages, max_tokens=60)
        yield answer, True
        messages.append(assistant(answer.content))


def weather(client: Client) -> Iterator[tuple[Answer, bool]]:
    messages: list[Message] = [{"role": "system", "content": "You are a helpful assistant."}]
    for question, result in (
        ("Call the weather tool for Berlin. Do not answer directly.", BERLIN),
        ("Now call the weather tool for Paris. Do not answer directly.", PARIS),
    ):
        messages.append(user(question))
        answer = client.stream_chat(MODEL, messages, tools=[WEATHER], max_tokens=60)
        yield answer, True
        assert answer.tool_calls
        messages += [called(answer.tool_calls[0]), tool_result(answer.tool_calls[0], result)]
        answer = client.stream_chat(MODEL, messages, tools=[WEATHER], max_tokens=60)
        yield answer, True
        messages.append(assistant(answer.content))


def thoughts_that_are_not_sent_back(client: Client) -> Iterator[tuple[Answer, bool]]:
    messages: list[Message] = []
    for question in ("Think: what is 2 + 3?", "Think step by step: what comes after 7?", SKY):
        messages.append(user(question))
        answer = client.stream_chat(MODEL, messages, max_tokens=100)
        yield answer, not answer.reasoning
        messages.append(assistant(answer.content))


@pytest.mark.parametrize("turns", [colours, weather, thoughts_that_are_not_sent_back])
def test_a_conversation_says_the_same_cold_warm_and_short_of_room(
    clients: dict[str, Client], turns: Callable[[Client], Iterator[tuple[Answer, bool]]]
) -> None:
    texts = {}
    for name, client in clients.items():
        ledger = Ledger(client)
        texts[name] = []
        expected = 0
        for answer, sent_back in turns(client):
            cached = ledger.add(answer.usage)
            assert answer.usage is not None
            # All of the turn before: to the end of its reply, where the client sends all of that back; else
            # to the end of its prompt.
            if name == "warm":
                assert cached >= expected
            expected = answer.usage["prompt_tokens"]
            if sent_back:
                expected += answer.usage["completion_tokens"] - 1
            texts[name].append(answered(answer))
        ledger.settle()
    assert texts["warm"] == texts["cold"]
    assert texts["small"] == texts["cold"]


def test_tools_and_system_prompts_that_come_and_go_say_the_same(clients: dict[str, Client]) -> None:
    system = {"role": "system", "content": "You are a helpful assistant."}
    asked = [
        ([*head, user(SKY)], tools) for head in ([], [system]) for tools in ([], [WEATHER]) for _ in range(2)
    ]
    random.Random(1).shuffle(asked)
    texts = {
        name: [
            said(client.chat(MODEL, messages, tools=tools or None, max_tokens=20)["choices"][0]["message"])
            for messages, tools in asked
        ]
        for name, client in clients.items()
    }
    assert texts["warm"] == texts["cold"]
    assert texts["small"] == texts["cold"]


def test_many_copies_of_a_prompt_at_once_say_the_same(clients: dict[str, Client]) -> None:
    messages = [user("Count from 1 to 5, one number per line")]
    for name in ("warm", "small"):
        with ThreadPoolExecutor(4) as pool:
            ask = [pool.submit(clients[name].chat, MODEL, messages, n=2, max_tokens=60) for _ in range(4)]
            replies = [future.result() for future in ask]
        texts = {choice["message"]["content"] for reply in replies for choice in reply["choices"]}
        cold = clients["cold"].chat(MODEL, messages, max_tokens=60)
        assert texts == {cold["choices"][0]["message"]["content"]}


# ---------------------------------------------------------------------- disconnects


def wait_idle(client: Client) -> None:
    client.wait_pool(lambda models: models[MODEL]["in_flight"] == 0)


def leave_while_queued(client: Client, body: dict[str, Any]) -> None:
    """Another request has the only place: this one waits, in the worker."""
    with client.stream(CHAT, chat_body(MODEL, "Hello", **ENDLESS)) as first:
        first.first_content()
        with client.whole(CHAT, {**body, "stream": True}):
            client.wait_pool(lambda models: models[MODEL]["in_flight"] == 2)
        client.wait_pool(lambda models: models[MODEL]["in_flight"] == 1)


def leave_while_prefilling(client: Client, body: dict[str, Any]) -> None:
    """Or a little before or after: the steps of a prefill are counted one by one in the unit tests. Endless,
    as else it could have come and gone before anybody has looked."""
    with client.whole(CHAT, {**body, **ENDLESS, "stream": True}):
        client.wait_pool(lambda models: models[MODEL]["in_flight"] == 1)


def leave_at_the_first_token(client: Client, body: dict[str, Any]) -> None:
    with client.stream(CHAT, body) as stream:
        stream.first_content()


def leave_midstream(client: Client, body: dict[str, Any]) -> None:
    with client.stream(CHAT, body) as stream:
        for _ in range(6):
            stream.first_content()


@pytest.mark.parametrize(
    ("leave", "place"),
    [
        (leave_while_queued, "small"),
        (leave_while_prefilling, "small"),
        (leave_at_the_first_token, "small"),
        (leave_midstream, "small"),
        (leave_midstream, "warm"),
    ],
)
def test_after_a_client_that_left_the_text_is_the_same(
    clients: dict[str, Client], leave: Callable[[Client, dict[str, Any]], None], place: str
) -> None:
    client = clients[place]
    # A history that no other test has.
    history: list[Message] = []
    for question in (GRASS, SNOW, SKY) * 3:
        history += [user(question), assistant(f"{leave.__name__} {place}.")]
    messages = [*history, user(COUNT_COMMAS)]
    leave(client, chat_body(MODEL, messages, max_tokens=64))
    wait_idle(client)
    again = client.chat(MODEL, messages, max_tokens=64)
    cold = clients["cold"].chat(MODEL, messages, max_tokens=64)
    assert said(again["choices"][0]["message"]) == said(cold["choices"][0]["message"])
    usage = again["usage"]
    if leave in (leave_at_the_first_token, leave_midstream):
        assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1
