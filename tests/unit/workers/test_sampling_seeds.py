"""A seed gives its text whoever else is in the batch, whatever the cache holds, and whatever fails."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from mlxk.workers.protocol import Generate, Sampling
from mlxk.workers.sampling import Samplers
from tests.unit.workers.engines import CACHE_BYTES, Conversation, RecordingEngine, encode, run

SEEDS = [*range(10), -1, 2**63 - 1, -(2**63)]
N_TOKENS = 8


def seeded(engine: RecordingEngine) -> list[Generate]:
    prompt = encode(engine, "A sea of many words, in no order that anybody knows: blue")
    return [
        Generate(
            f"seed {seed}",
            tokens=prompt,
            max_tokens=N_TOKENS,
            ignore_eos=True,
            sampling=Sampling(
                temperature=2.0,
                top_p=0.95 if seed % 3 else None,
                top_k=50 if seed % 2 else None,
                min_p=0.02 if seed % 5 == 0 else None,
                seed=seed,
            ),
        )
        for seed in SEEDS
    ]


def come_and_go(engine: RecordingEngine, requests: list[Generate]) -> dict[str, list[int]]:
    """The requests among strangers that arrive between steps, end early or are aborted."""
    chance, conversation = random.Random(0), Conversation(engine)
    waiting = requests[:]
    chance.shuffle(waiting)
    strangers = 0
    while waiting or not engine.idle:
        if waiting and chance.random() < 0.6:
            conversation.submit(waiting.pop())
        if waiting and chance.random() < 0.3:
            strangers += 1
            tokens = [chance.randrange(200) for _ in range(chance.randint(1, 60))]
            sampling = Sampling(temperature=1.0, seed=chance.choice([None, 3]), frequency_penalty=0.5)
            conversation.submit(Generate(f"x{strangers}", tokens=tokens, max_tokens=9, sampling=sampling))
            if chance.random() < 0.3:
                conversation.abort(f"x{strangers}")
        if not engine.idle:
            conversation.step()
    assert strangers > 4
    return {request.id: conversation.replies[request.id].tokens for request in requests}


@pytest.mark.parametrize("model", ["tiny", "llama"])
def test_alone_among_strangers_cold_warm_and_after_failures(
    model: str, new_engine: Callable[..., RecordingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = new_engine(model)
    requests = seeded(engine)
    engine.trim_cache(0)
    alone = {request.id: run(engine, request)[request.id].tokens for request in requests}
    assert come_and_go(engine, requests) == alone
    engine.trim_cache(CACHE_BYTES)
    run(engine, requests[0])
    warm = run(engine, *requests)
    assert all(reply.cached for reply in warm.values())
    assert {name: reply.tokens for name, reply in warm.items()} == alone
    step, steps = type(engine._running.batch).step, []

    def failing(self: Any) -> Any:
        steps.append(1)
        if len(steps) == 6:
            raise RuntimeError("sabotage")
        return step(self)

    monkeypatch.setattr(type(engine._running.batch), "step", failing)
    few = requests[::4]
    assert {name: reply.tokens for name, reply in run(engine, *few).items()} == {
        r.id: alone[r.id] for r in few
    }
    assert len(set(map(tuple, alone.values()))) > len(SEEDS) // 2, "different seeds differ"


def test_without_a_seed_no_two_are_alike(tiny: RecordingEngine) -> None:
    prompt = encode(tiny, "Once")
    requests = [
        Generate(
            # As long as it takes: eight tokens of a model that has learnt its texts may well be alike.
            str(i),
            tokens=prompt,
            max_tokens=48,
            ignore_eos=True,
            sampling=Sampling(temperature=1.5),
        )
        for i in range(8)
    ]
    replies = run(tiny, *requests)
    assert len({tuple(reply.tokens) for reply in replies.values()}) == 8


def test_a_sampler_that_begins_later_goes_on_where_another_was() -> None:
    row = mx.zeros((1, 1000))
    sampling = Sampling(temperature=1.0, seed=11)
    first = Samplers(1000, {}).sampler(sampling)
    draws = [first(row).item() for _ in range(30)]
    assert len(set(draws)) > 20
    later = Samplers(1000, {}).sampler(sampling, drawn=17)
    assert [later(row).item() for _ in range(13)] == draws[17:]


def test_neighbouring_seeds_share_no_draws() -> None:
    """Also not shifted by a place, as counting up one state would."""
    row = mx.zeros((1, 5000))
    draws = {}
    for seed in range(6):
        sampler = Samplers(5000, {}).sampler(Sampling(temperature=1.0, seed=seed))
        draws[seed] = {sampler(row).item() for _ in range(20)}
    common = [len(draws[a] & draws[b]) for a in draws for b in draws if a < b]
    assert max(common) <= 3


def test_draws_follow_the_distribution() -> None:
    """Each draw of a seed is as likely as the logits say: 1,000 draws of four tokens."""
    probabilities = [0.5, 0.3, 0.15, 0.05]
    row = mx.log(mx.array([probabilities]))
    for temperature, seed in ((1.0, 5), (2.0, 6)):
        sampler = Samplers(4, {}).sampler(Sampling(temperature=temperature, seed=seed))
        counts = [0] * 4
        for token in mx.concatenate([sampler(row) for _ in range(1000)]).tolist():
            counts[token] += 1
        weights = [p ** (1 / temperature) for p in probabilities]
        for count, weight in zip(counts, weights, strict=True):
            assert count / 1000 == pytest.approx(weight / sum(weights), abs=0.05)
