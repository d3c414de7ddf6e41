"""Batched, chunked and reused: the tokens are those of mlx_lm's own loop for one sequence."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from mlx_lm import stream_generate

from mlxk.workers.protocol import FinishReason, Generate
from tests.models import MODEL_KINDS
from tests.unit.workers.engines import (
    CACHE_BYTES,
    GREEDY,
    Conversation,
    RecordingEngine,
    agree,
    encode,
    reference,
    run,
    run_one,
)

MODELS = ["tiny", *MODEL_KINDS]
TIE = {"tiny": 0.25}  # bfloat16
N_TOKENS = 16
TEXTS = [
    "Count from 1 to 10, one number per line:\n1\n2\n",
    "The sky is",
    "a",
    "Ünïcödé 日本語 🙂 and more",
    "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nSay: hi there and hello world!<|im_end|>\n<|im_start|>assistant\n",
    "one two three four five six seven eight nine ten " * 4,
    "x = [1, 2, 3]\nfor i in x:\n    print(i)\n",
]


def ids_of(engine: RecordingEngine) -> list[list[int]]:
    return [encode(engine, text) for text in TEXTS]


def request(i: int, prompt: list[int], n_tokens: int = N_TOKENS) -> Generate:
    return Generate(str(i), tokens=prompt, max_tokens=n_tokens, ignore_eos=True, sampling=GREEDY)


@pytest.mark.parametrize("model", MODELS)
def test_alone_in_a_batch_and_from_a_stored_prefix_the_tokens_are_mlx_lms(
    model: str, new_engine: Callable[..., RecordingEngine]
) -> None:
    engine = new_engine(model, prefill_chunk=16, busy_prefill_chunk=8)
    prompts = ids_of(engine)
    wanted = [reference(engine, prompt, N_TOKENS) for prompt in prompts]
    requests = [request(i, prompt) for i, prompt in enumerate(prompts)]

    def check(how: str, tokens: list[list[int]]) -> None:
        for prompt, got, want in zip(prompts, tokens, wanted, strict=True):
            assert agree(engine, prompt, got, want, TIE.get(model, 1e-3)), f"{how}, {len(prompt)} tokens"

    check("alone", [run(engine, r)[r.id].tokens for r in requests])
    engine.trim_cache(0)
    engine.trim_cache(CACHE_BYTES)
    replies = run(engine, *requests)
    assert all(reply.cached == 0 for reply in replies.values())
    check("in a batch", [replies[r.id].tokens for r in requests])
    replies = run(engine, *requests)
    reused = [replies[r.id].cached for r in requests]
    assert reused == [max(0, len(prompt) - 1) for prompt in prompts]
    check("in a batch, reused", [replies[r.id].tokens for r in requests])


@pytest.mark.parametrize("text", TEXTS[4:6])
def test_text_and_end_are_those_of_mlx_lms_stream_generate(text: str, tiny: RecordingEngine) -> None:
    wanted = list(stream_generate(tiny._model, tiny._tokenizer, encode(tiny, text), max_tokens=60))
    got = run_one(tiny, prompt=text, max_tokens=60)
    assert got.tokens == [response.token for response in wanted]
    assert got.content.strip() == "".join(response.text for response in wanted).strip()
    assert got.finished is not None
    assert got.finished.reason == wanted[-1].finish_reason
    assert got.finished.usage.completion_tokens == len(wanted)


@pytest.mark.parametrize("model", MODELS)
def test_requests_that_come_and_go_at_random_say_what_they_say_alone(
    model: str, new_engine: Callable[..., RecordingEngine]
) -> None:
    """Thirty requests that begin like each other, arrive between steps, are aborted or are followed up."""
    engine = new_engine(model, prefill_chunk=24, busy_prefill_chunk=7, max_batch=5)
    conversation = Conversation(engine)
    chance = random.Random(3)
    prompts = [encode(engine, text) for text in TEXTS]
    asked: dict[str, list[int]] = {}
    aborted: set[str] = set()
    while len(asked) < 30 or not engine.idle:
        if len(asked) < 30 and chance.random() < 0.4:
            prompt = next_prompt(chance, prompts, conversation, asked)
            name = str(len(asked))
            asked[name] = prompt
            conversation.submit(
                Generate(
                    name, tokens=prompt, max_tokens=chance.randint(1, 16), ignore_eos=True, sampling=GREEDY
                )
            )
        if not engine.idle and chance.random() < 0.1:
            name = chance.choice([s.request.id for s in engine._running.by_id.values()])
            aborted.add(name)
            conversation.abort(name)
        if not engine.idle:
            conversation.step()
    assert aborted
    assert engine.stats().cache.hits > 0
    for name, prompt in asked.items():
        reply = conversation.replies[name]
        assert reply.finished is not None
        assert (reply.finished.reason == FinishReason.ABORT) == (name in aborted)
        if reply.tokens:
            wanted = reference(engine, prompt, len(reply.tokens))
            assert agree(engine, prompt, reply.tokens, wanted, TIE.get(model, 1e-3)), (name, reply.cached)


def next_prompt(
    chance: random.Random,
    prompts: list[list[int]],
    conversation: Conversation,
    asked: dict[str, list[int]],
) -> list[int]:
    """A new prompt, an old one again, a part of an old one with another end, or an old one and its reply."""
    kind = chance.randrange(4) if asked else 0
    if kind == 0:
        return chance.choice(prompts)
    name = chance.choice(list(asked))
    prompt = asked[name]
    if kind == 1:
        return prompt
    tail = [chance.randrange(100) for _ in range(chance.randint(1, 40))]
    if kind == 2:
        return prompt[: chance.randint(1, len(prompt))] + tail
    return prompt + conversation.replies[name].tokens + tail
