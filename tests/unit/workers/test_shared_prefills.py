"""Requests that begin alike and come while one of them is running: the beginning is computed once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlxk.workers.protocol import FinishReason, Generate
from mlxk.workers.shared_prefills import MIN_GAIN_TOKENS
from tests.unit.workers.engines import (
    GREEDY,
    Conversation,
    RecordingEngine,
    agree,
    encode,
    reference,
    run,
    run_one,
)

SYSTEM = "You are a patient assistant who explains every step of the way, and you never hurry. " * 3
QUESTIONS = ("Why is the sky blue?", "Who was first on the moon?", "How deep is the sea?", "Say hello.")
KINDS = ["tiny", "sliding_window", "hybrid", "chunked"]
ALIKE = 96
assert ALIKE > MIN_GAIN_TOKENS

NewEngine = Callable[..., RecordingEngine]


def alike(engine: RecordingEngine, n: int = 4, *, max_tokens: int = 4) -> list[Generate]:
    """Bare prompts with ALIKE equal tokens and a few others."""
    beginning = encode(engine, SYSTEM)[:ALIKE]
    assert len(beginning) == ALIKE
    return [
        Generate(str(i), tokens=[*beginning, 20 + i, 40 + i, 60], max_tokens=max_tokens, ignore_eos=True,
                 sampling=GREEDY)
        for i in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("model", KINDS)
def test_a_common_system_prompt_is_computed_once_for_requests_that_come_together(
    model: str, new_engine: NewEngine, bare_engines: Callable[[str], RecordingEngine]
) -> None:
    engine, bare = new_engine(model, prefill_chunk=32), bare_engines(model)
    system = {"role": "system", "content": SYSTEM}
    requests = [
        Generate(str(i), messages=[system, {"role": "user", "content": q}], max_tokens=6, sampling=GREEDY)
        for i, q in enumerate(QUESTIONS)
    ]
    conversation = Conversation(engine)
    conversation.submit(*requests)
    assert engine.stats().in_flight == len(requests)
    conversation.finish()
    n_system = len(encode(engine, SYSTEM))
    cached = [conversation.replies[request.id].cached for request in requests]
    assert cached[0] == 0
    assert min(cached[1:]) >= n_system
    for request in requests:
        assert conversation.replies[request.id].text == run(bare, request)[request.id].text


def test_what_a_running_request_has_computed_is_there_for_others(new_engine: NewEngine) -> None:
    """Long before it ends and leaves its cache behind."""
    engine = new_engine("tiny")
    first, second, *_ = alike(engine, max_tokens=30)
    conversation = Conversation(engine)
    conversation.submit(first)
    conversation.run_until(lambda: len(conversation.replies["0"].tokens) == 5)
    conversation.submit(second)
    conversation.finish()
    assert conversation.replies["1"].cached == ALIKE
    for request in (first, second):
        assert request.tokens is not None
        wanted = reference(engine, list(request.tokens), 30)
        assert agree(engine, list(request.tokens), conversation.replies[request.id].tokens, wanted, 0.25)


@pytest.mark.parametrize("how", ["abort", "failed step"])
def test_when_the_first_does_not_get_through_the_next_takes_its_place(
    how: str, new_engine: NewEngine
) -> None:
    engine = new_engine("tiny", prefill_chunk=16)
    conversation = Conversation(engine)
    conversation.submit(*alike(engine))
    conversation.step(2)
    assert [name for name, reply in conversation.replies.items() if reply.started] == ["0"]
    if how == "abort":
        conversation.abort("0")
    else:
        conversation.take(engine._recover(RuntimeError("a step failed")))
    assert not engine.idle
    conversation.finish()
    replies = conversation.replies
    assert all(replies[name].finished for name in "0123")
    assert [replies[name].cached for name in "23"] == [ALIKE, ALIKE]
    # What was computed before an abort is not computed again.
    assert replies["1"].cached == (32 if how == "abort" else ALIKE)


def test_who_waits_can_leave_and_everybody_can(new_engine: NewEngine) -> None:
    engine = new_engine("tiny", prefill_chunk=16)
    conversation = Conversation(engine)
    conversation.submit(*alike(engine))
    conversation.step()
    conversation.abort("2")
    finished = conversation.replies["2"].finished
    assert finished is not None
    assert (finished.reason, finished.usage.completion_tokens) == (FinishReason.ABORT, 0)
    for name in "013":
        conversation.abort(name)
    assert engine.idle
    assert engine.stats().in_flight == 0
    assert all(conversation.replies[name].finished for name in "0123")
    assert run_one(engine, tokens=[5, 6, 7], max_tokens=2).finished is not None


@pytest.mark.parametrize("cache_bytes", [0, 20_000])
@pytest.mark.parametrize("max_tokens", [1, 20])
def test_where_nothing_can_be_kept_nobody_waits_twice(
    cache_bytes: int, max_tokens: int, new_engine: NewEngine
) -> None:
    """Else each would wait for the one before it, and then compute everything itself."""
    engine = new_engine("tiny", cache_bytes=cache_bytes)
    conversation = Conversation(engine)
    conversation.submit(*alike(engine, max_tokens=max_tokens))
    conversation.run_until(lambda: bool(conversation.replies["0"].tokens))
    assert all(reply.started for reply in conversation.replies.values())
    assert len(conversation.replies) == 4
    conversation.finish()
    assert all(reply.cached == 0 for reply in conversation.replies.values())


def test_short_or_different_beginnings_wait_for_nobody(new_engine: NewEngine) -> None:
    engine = new_engine("tiny")
    conversation = Conversation(engine)
    few = encode(engine, SYSTEM)[: MIN_GAIN_TOKENS - 1]
    for i in range(3):
        conversation.submit(Generate(str(i), tokens=[*few, i + 5, *few], max_tokens=2, sampling=GREEDY))
    assert len(engine._running.by_uid) == 3
    conversation.finish()
