"""What is kept of a request, and what the next one gets of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlxk.workers import kv_caches
from mlxk.workers.protocol import FinishReason, Generate
from mlxk.workers.sequences import MAX_CHECKPOINTS
from tests.models import MODEL_KINDS, FurtherKind, ModelKind, make_random_model
from tests.unit.workers.engines import (
    GREEDY,
    Conversation,
    RecordingEngine,
    agree,
    encode,
    load_engine,
    reference,
    run,
    run_one,
)

UNTRIMMABLE = ["sliding_window", "hybrid", "state_space", "chunked"]
LONG = "A long prompt goes through the model in several chunks, and each of them can be the last one. "


def arrays(cache: list[Any]) -> list[tuple[str, Any]]:
    """A copy of all that a stored cache holds."""
    mx.eval([layer.state for layer in cache])
    return copy.deepcopy(tree_flatten([layer.state for layer in cache]))


def same(a: list[tuple[str, Any]], b: list[tuple[str, Any]]) -> bool:
    return len(a) == len(b) and all(
        n == m and (bool(mx.array_equal(x, y)) if isinstance(x, mx.array) else x == y)
        for (n, x), (m, y) in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("model", ["tiny", *MODEL_KINDS])
def test_a_stored_prefix_is_not_changed_by_its_use(
    model: str, new_engine: Callable[..., RecordingEngine]
) -> None:
    engine = new_engine(model, prefill_chunk=16)
    prompt = encode(engine, LONG)
    first = run_one(engine, tokens=prompt, max_tokens=12, ignore_eos=True)
    longer = [*prompt, *first.tokens, 5, 6, 7]
    before = {key: arrays(entry.cache) for key, entry in engine._prefixes._entries.items()}
    again = [run_one(engine, tokens=longer, max_tokens=12, ignore_eos=True) for _ in range(3)]
    assert again[0].cached == len(prompt) + len(first.tokens)
    assert again[0].tokens == again[1].tokens == again[2].tokens
    both = run(
        engine,
        *(
            Generate(name, tokens=longer, max_tokens=12, ignore_eos=True, sampling=GREEDY)
            for name in ("a", "b")
        ),
    )
    assert both["a"].tokens == both["b"].tokens
    wanted = reference(engine, longer, 12)
    assert agree(engine, longer, again[0].tokens, wanted, 0.25 if model == "tiny" else 1e-3)
    kept = engine._prefixes._entries
    compared = [same(arrays(kept[key].cache), cache) for key, cache in before.items() if key in kept]
    assert all(compared)
    assert compared or model in ("tiny", "llama")  # there the longer one has replaced it


@pytest.mark.parametrize("model", ["tiny", *MODEL_KINDS])
def test_an_abort_while_decoding_keeps_the_prompt_and_the_reply_so_far(
    model: str, new_engine: Callable[..., RecordingEngine]
) -> None:
    engine = new_engine(model)
    prompt = encode(engine, LONG)
    conversation = Conversation(engine)
    conversation.submit(Generate("a", tokens=prompt, max_tokens=50, ignore_eos=True, sampling=GREEDY))
    reply = conversation.replies["a"]
    conversation.run_until(lambda: len(reply.tokens) == 7)
    conversation.abort("a")
    assert engine.idle
    assert reply.finished is not None
    assert (reply.finished.reason, reply.finished.usage.completion_tokens) == (FinishReason.ABORT, 7)
    followed = run_one(engine, tokens=[*prompt, *reply.tokens, 9], max_tokens=4)
    assert followed.cached == len(prompt) + 7
    assert run_one(engine, tokens=prompt, max_tokens=4).cached == len(prompt) - 1


@pytest.mark.parametrize("model", ["tiny", *MODEL_KINDS])
def test_an_abort_in_the_middle_of_a_prefill_keeps_the_chunks_so_far(
    model: str, new_engine: Callable[..., RecordingEngine]
) -> None:
    engine = new_engine(model, prefill_chunk=16)
    prompt = encode(engine, 2 * LONG)
    conversation = Conversation(engine)
    conversation.submit(Generate("a", tokens=prompt, max_tokens=5, sampling=GREEDY))
    conversation.step(2)
    progress = conversation.replies["a"].progress
    assert [(p.done, p.total) for p in progress] == [(16, len(prompt)), (32, len(prompt))]
    conversation.abort("a")
    assert run_one(engine, tokens=prompt, max_tokens=5).cached == 32


@pytest.mark.parametrize("model", ["tiny", "hybrid", "chunked"])
def test_an_abort_while_queued_costs_and_leaves_nothing(
    model: str, new_engine: Callable[..., RecordingEngine]
) -> None:
    engine = new_engine(model, max_batch=1)
    prompts = {"a": encode(engine, LONG), "b": encode(engine, "Something else " + LONG)}
    alone = {name: reference(engine, prompt, 8) for name, prompt in prompts.items()}
    conversation = Conversation(engine)
    for name, prompt in prompts.items():
        conversation.submit(Generate(name, tokens=prompt, max_tokens=8, ignore_eos=True, sampling=GREEDY))
    conversation.step(3)
    conversation.abort("b")
    conversation.finish()
    finished = conversation.replies["b"].finished
    assert finished is not None
    assert (finished.reason, finished.usage.completion_tokens) == (FinishReason.ABORT, 0)
    assert conversation.replies["a"].tokens == alone["a"]
    again = run_one(engine, tokens=prompts["b"], max_tokens=8, ignore_eos=True)
    assert (again.cached, again.tokens) == (0, alone["b"])


def test_an_abort_while_queued_leaves_the_stored_prefix_that_it_would_have_used(
    new_engine: Callable[..., RecordingEngine],
) -> None:
    engine = new_engine("state_space", max_batch=1)
    prompt = encode(engine, LONG)
    first = run_one(engine, tokens=prompt, max_tokens=8, ignore_eos=True)
    entries = engine.stats().cache.entries
    conversation = Conversation(engine)
    conversation.submit(
        Generate("a", tokens=[1, 2, 3], max_tokens=8, sampling=GREEDY),
        Generate("b", tokens=prompt, max_tokens=8, sampling=GREEDY),
    )
    conversation.abort("b")
    conversation.abort("a")
    assert engine.stats().cache.entries == entries
    again = run_one(engine, tokens=prompt, max_tokens=8, ignore_eos=True)
    assert (again.cached, again.tokens) == (len(prompt) - 1, first.tokens)


def test_aborting_twice_or_an_unknown_request_says_nothing(tiny: RecordingEngine) -> None:
    conversation = Conversation(tiny)
    conversation.submit(Generate("a", tokens=[1, 2], sampling=GREEDY))
    conversation.step(2)
    conversation.abort("a")
    assert tiny.abort("a") == []
    assert tiny.abort("nobody") == []


@pytest.mark.parametrize("model", ["tiny", *UNTRIMMABLE])
def test_a_growing_conversation_reuses_its_turns_and_says_the_same_as_without(
    model: str,
    new_engine: Callable[..., RecordingEngine],
    bare_engines: Callable[[str], RecordingEngine],
) -> None:
    engine, bare = new_engine(model), bare_engines(model)
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You answer in few words, always."}]
    cached: list[int] = []
    sizes: list[int] = []
    for question in ("What colour is the sky?", "And the grass in summer?", "And the snow?"):
        messages.append({"role": "user", "content": question})
        got = run_one(engine, messages=list(messages), max_tokens=16)
        wanted = run_one(bare, messages=list(messages), max_tokens=16)
        assert wanted.cached == 0
        assert got.text == wanted.text
        assert got.started is not None
        cached.append(got.cached)
        sizes.append(got.started.prompt_tokens)
        messages.append({"role": "assistant", "content": got.content, "reasoning_content": got.reasoning})
    assert cached[0] == 0
    # At the least all of the turn before but the opening of the reply:
    assert cached[1] >= sizes[0] - 8
    assert cached[2] >= sizes[1] - 8


@pytest.mark.parametrize("model", UNTRIMMABLE)
def test_another_question_after_the_same_system_prompt_reuses_it(
    model: str, new_engine: Callable[..., RecordingEngine]
) -> None:
    engine = new_engine(model)
    system = {"role": "system", "content": LONG * 2}
    run_one(engine, messages=[system, {"role": "user", "content": "First " * 20}], max_tokens=8)
    got = run_one(engine, messages=[system, {"role": "user", "content": "Other " * 20}], max_tokens=8)
    assert got.cached >= len(encode(engine, LONG * 2))


@pytest.mark.parametrize("model", ["tiny", *UNTRIMMABLE])
def test_an_exact_repeat_is_reused_and_repeated(
    model: str, new_engine: Callable[..., RecordingEngine]
) -> None:
    engine = new_engine(model)
    for request in ({"messages": [{"role": "user", "content": "Hello, you."}]}, {"prompt": LONG}):
        first, second, third = (run_one(engine, max_tokens=12, **request) for _ in range(3))
        assert first.cached == 0
        assert second.started is not None
        assert second.cached == third.cached == second.started.prompt_tokens - 1
        assert first.text == second.text == third.text


@pytest.mark.parametrize("kind", ["llama", "deepseek_v32", "falcon_h1"])
def test_a_stored_prefix_becomes_a_batch_of_one_without_a_copy(
    kind: ModelKind | FurtherKind, tmp_path: Path
) -> None:
    engine = load_engine(make_random_model(tmp_path / kind, kind))
    run_one(engine, tokens=encode(engine, LONG), max_tokens=4, ignore_eos=True)
    (entry,) = [e for e in engine._prefixes._entries.values() if e.trimmable or kind == "falcon_h1"][-1:]
    for cache in (entry.cache, *([engine._prefixes._ops.trimmed(entry.cache, 3)] if entry.trimmable else [])):
        merged = [layer.merge([layer]) for layer in cache]
        before = mx.get_active_memory()
        alone = [kv_caches.batch_of_one(layer) for layer in cache]
        mx.eval([layer.state for layer in alone])
        assert mx.get_active_memory() - before < 10_000 or kind == "falcon_h1"  # its state is copied
        assert same(arrays(alone), arrays(merged))
    engine.close()


@pytest.mark.parametrize("model", MODEL_KINDS)
def test_what_is_kept_of_a_batch_does_not_hold_the_batchs_memory(
    model: str, new_engine: Callable[..., RecordingEngine]
) -> None:
    """An extracted cache is a view: unless it is copied, each of eight holds the buffers of all eight."""
    engine = new_engine(model)
    prompts = [[i, *encode(engine, LONG * (1 + i % 3))] for i in range(8)]
    requests = [
        Generate(str(i), tokens=prompt, max_tokens=8 + i, ignore_eos=True, sampling=GREEDY)
        for i, prompt in enumerate(prompts)
    ]
    run(engine, *requests)  # what the first run alone needs (compiled kernels, constants) is not counted
    engine.trim_cache(0)
    engine.trim_cache(1 << 30)
    before = mx.get_active_memory()
    run(engine, *requests)
    mx.synchronize()
    mx.clear_cache()
    held = mx.get_active_memory() - before
    counted = engine.stats().cache.bytes
    assert counted > 0
    assert held < 1.25 * counted + 200_000


def test_the_cache_budget_holds_while_requests_come(new_engine: Callable[..., RecordingEngine]) -> None:
    engine = new_engine("llama", cache_bytes=200_000)
    for i in range(12):
        run_one(engine, tokens=[i, *encode(engine, LONG)], max_tokens=4)
        assert 0 < engine.stats().cache.bytes <= 200_000
    engine.trim_cache(60_000)
    assert engine.stats().cache.bytes <= 60_000
    run_one(engine, tokens=[99, *encode(engine, LONG)], max_tokens=4)
    assert engine.stats().cache.bytes <= 60_000
    engine.trim_cache(0)
    assert engine.stats().cache.entries == 0


@pytest.mark.parametrize("model", UNTRIMMABLE)
def test_prompts_that_part_anywhere_reuse_up_to_the_checkpoint_before(
    model: str, new_engine: Callable[..., RecordingEngine], bare_engines: Callable[[str], RecordingEngine]
) -> None:
    """Bare prompts have no turns."""
    engine, chunk = new_engine(model, prefill_chunk=16), 16
    prompt = (encode(engine, LONG) * 4)[:120]
    run_one(engine, tokens=prompt, max_tokens=4)
    for shared in (37, 64, 101):
        other = [*prompt[:shared], *range(20, 40)]
        got = run_one(engine, tokens=other, max_tokens=4, ignore_eos=True)
        assert got.cached >= shared // chunk * chunk
        assert got.tokens == run_one(bare_engines(model), tokens=other, max_tokens=4, ignore_eos=True).tokens


def test_a_long_prompt_has_no_more_checkpoints_than_so_many(
    new_engine: Callable[..., RecordingEngine],
) -> None:
    engine = new_engine("hybrid", prefill_chunk=8)
    prompt = (encode(engine, LONG) * 8)[:300]
    run_one(engine, tokens=prompt, max_tokens=4, ignore_eos=True)
    assert MAX_CHECKPOINTS // 2 <= engine.stats().cache.entries <= MAX_CHECKPOINTS + 2


def test_a_checkpoint_that_is_there_is_not_copied_again(
    new_engine: Callable[..., RecordingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = new_engine("hybrid", prefill_chunk=16)
    prompt = encode(engine, LONG)[:40]
    copied: list[int] = []
    detach = kv_caches.detach
    monkeypatch.setattr(kv_caches, "detach", lambda cache: copied.append(1) or detach(cache))
    run(engine, *(Generate(str(i), tokens=[*prompt, i], max_tokens=2, sampling=GREEDY) for i in (5, 6)))
    assert engine.stats().cache.entries == len(copied)  # two checkpoints of both, two of each one's own


@pytest.mark.parametrize("model", ["llama", "hybrid"])
def test_what_there_is_no_room_for_is_not_copied_out(
    model: str, new_engine: Callable[..., RecordingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short, a copy of a long prompt's cache that is thrown away at once makes it shorter."""
    copied = []
    monkeypatch.setattr(kv_caches, "detach", lambda cache: copied.append(cache) or cache)
    engine = new_engine(model, cache_bytes=0, prefill_chunk=16)
    run_one(engine, prompt=LONG, max_tokens=4)
    conversation = Conversation(engine)
    conversation.submit(Generate("a", prompt=LONG, max_tokens=9, ignore_eos=True, sampling=GREEDY))
    conversation.run_until(lambda: bool(conversation.replies["a"].tokens))
    conversation.abort("a")
    assert not copied
    engine.trim_cache(1 << 26)
    run_one(engine, prompt=LONG, max_tokens=4)
    assert copied
