"""Thirty-two streams at once on one worker give the same texts as one at a time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.api.client import Client
from tests.e2e.prompts import COUNT_10, expected_cases

N_STREAMS = 32

MODEL_AT_ONCE, MODEL_ALONE = "tiny", "tiny-copy"
"""The same weights in two processes, so that neither finds the other's prefixes."""


def mixed_prompts() -> list[dict[str, Any]]:
    """Short and long, chat and completion, with and without tools; one of them twice."""
    cases = [case for case in expected_cases() if case["kind"] != "long"]
    step = len(cases) // (N_STREAMS - 1)
    chosen = cases[: step * (N_STREAMS - 1) : step]
    return [*chosen, chosen[0]]


def text_of(client: Client, model: str, case: dict[str, Any]) -> tuple[Any, ...]:
    names = ("tools", "chat_template_kwargs")
    fields = {name: case[name] for name in names if name in case} | {"max_tokens": 160}
    if "prompt" in case:
        answer = client.stream_text(model, case["prompt"], **fields)
    else:
        answer = client.stream_chat(model, case["messages"], **fields)
    assert answer.done
    calls = [call["function"] for call in answer.tool_calls]
    return answer.content, answer.reasoning, calls, answer.finish_reason


def test_32_streams_at_once_say_what_each_says_alone(client: Client) -> None:
    cases = mixed_prompts()
    assert len(cases) == N_STREAMS
    client.request("DELETE", f"/pool/{MODEL_AT_ONCE}")
    client.post(f"/pool/{MODEL_AT_ONCE}/load")
    together = threading.Barrier(N_STREAMS)

    def at_once(case: dict[str, Any]) -> tuple[Any, ...]:
        together.wait(20)
        return text_of(client, MODEL_AT_ONCE, case)

    with ThreadPoolExecutor(N_STREAMS) as pool:
        cold = list(pool.map(at_once, cases))
        warm = list(pool.map(at_once, cases))
    alone = [text_of(client, MODEL_ALONE, case) for case in cases]
    assert cold == alone
    # From the prefixes that the first round has left.
    assert warm == alone


def test_requests_that_sample_differently_share_a_batch(client: Client) -> None:
    """Greedy rows stay greedy beside hot ones; seeded ones repeat."""
    alone = client.stream_chat("tiny", COUNT_10).content

    def ask(fields: dict[str, Any]) -> str:
        return client.stream_chat("tiny", COUNT_10, **{"max_tokens": 60, **fields}).content

    hot = {"temperature": 1.5}
    seeded = {"temperature": 1.2, "seed": 5, "top_p": 0.9}
    fields = [{}, hot, seeded, {"top_k": 3, "temperature": 1}, {}, hot, seeded, {"frequency_penalty": 1.5}]
    with ThreadPoolExecutor(len(fields)) as pool:
        texts = list(pool.map(ask, fields))
    assert texts[0] == texts[4] == alone
    assert texts[2] == texts[6]
