"""Penalties count what they should, and no number breaks a step."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.sample_utils import greedy_sampler

from mlxk.workers.mlx_adapter import LogitsProcessor
from mlxk.workers.protocol import FaultCode, FaultError, Generate, Sampling
from mlxk.workers.sampling import LIMITS, MAX_BIAS, Samplers, check_sampling
from tests.unit.workers.engines import GREEDY, Conversation, RecordingEngine, encode, load_engine, run

VOCABULARY = 50
PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


# --------------------------------------------------------------------------- penalties


def expected(logits: np.ndarray, prompt: list[int], generated: list[int], sampling: Sampling) -> np.ndarray:
    """By the definitions of OpenAI (presence, frequency) and of transformers (repetition)."""
    result = logits.astype(np.float64).copy()
    for token in range(len(result)):
        result[token] += (sampling.logit_bias or {}).get(token, 0)
        if token in prompt or token in generated:
            factor = sampling.repetition_penalty or 1
            result[token] = result[token] * factor if result[token] < 0 else result[token] / factor
        count = generated.count(token)
        result[token] -= count * (sampling.frequency_penalty or 0)
        result[token] -= (sampling.presence_penalty or 0) if count else 0
    return result


def random_sampling(chance: random.Random) -> Sampling:
    def maybe(value: Any) -> Any:
        return value if chance.random() < 0.6 else None

    biased = [*chance.sample(range(VOCABULARY), 4), 0, VOCABULARY - 1]
    return Sampling(
        repetition_penalty=maybe(chance.choice([0.5, 0.9, 1.0, 1.1, 1.8])),
        presence_penalty=maybe(chance.choice([-2.0, -0.3, 0.0, 0.01, 1.5, 2.0])),
        frequency_penalty=maybe(chance.choice([-2.0, -0.01, 0.0, 0.01, 0.7, 2.0])),
        logit_bias=maybe({token: chance.choice([-100.0, -1.5, 0.0, 2.0, 100.0]) for token in biased}),
    )


def test_four_hundred_random_contexts_against_the_definitions() -> None:
    chance, numbers = random.Random(1), np.random.default_rng(1)
    samplers = Samplers(VOCABULARY, {})
    for case in range(400):
        sampling = random_sampling(chance)
        prompt = [chance.randrange(VOCABULARY) for _ in range(chance.choice([1, 5, 60]))]
        generated = [chance.randrange(VOCABULARY) for _ in range(chance.choice([0, 1, 7, 300]))]
        kind, near = chance.choice([(mx.float32, 1e-5), (mx.bfloat16, 2**-7), (mx.float16, 2**-10)])
        logits = mx.array(numbers.normal(0, 5, (1, VOCABULARY)).astype(np.float32)).astype(kind)
        wanted = expected(np.array(logits.astype(mx.float32))[0], prompt, generated, sampling)
        for processor in samplers.processors(sampling, len(prompt)):
            logits = processor(mx.array(prompt + generated), logits)
        assert logits.dtype == kind, "or the rows beside it would change theirs"
        # One rounding for each of the three kinds of change.
        got = np.array(logits.astype(mx.float32))[0]
        biases = [abs(value) for value in (sampling.logit_bias or {}).values()]
        room = near * 3 * np.maximum(1, np.abs(wanted) + max(biases, default=0))
        assert np.all(np.abs(got - wanted) <= room), (case, sampling)


def test_small_penalties_add_up_on_half_precision_logits() -> None:
    """mlx_lm's own subtract 0.05 a hundred times from 20; bfloat16 has no number between 20 and 19.875."""
    (penalize,) = Samplers(VOCABULARY, {}).processors(Sampling(frequency_penalty=0.05), 1)
    logits = mx.full((1, VOCABULARY), 20.0, mx.bfloat16)
    assert float(penalize(mx.array([0] + [7] * 100), logits)[0, 7]) == 15.0


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, presence_penalty=0.0, frequency_penalty=0.0)])
def test_nothing_asked_for_is_no_processor(sampling: Sampling) -> None:
    assert Samplers(VOCABULARY, {}).processors(sampling, 3) == []
    assert Samplers(VOCABULARY, {}).processors(Sampling(repetition_penalty=1.0, logit_bias={}), 3) == []


class Witness:
    """Notes what the batch shows to one request's processors."""

    def __init__(self, real: Samplers) -> None:
        self._real = real
        self.seen: list[list[int]] = []
        self.prompts: set[int] = set()

    def sampler(self, sampling: Sampling, drawn: int = 0) -> Any:
        return self._real.sampler(sampling, drawn)

    def processors(self, sampling: Sampling, n_prompt: int) -> list[LogitsProcessor]:
        if not sampling.frequency_penalty:
            return self._real.processors(sampling, n_prompt)
        self.prompts.add(n_prompt)

        def note(tokens: mx.array, logits: mx.array) -> mx.array:
            self.seen.append(list(map(int, tokens)))  # type: ignore[call-overload]
            return logits

        return [note, *self._real.processors(sampling, n_prompt)]


PENALIZED = Sampling(temperature=0, frequency_penalty=1.2, presence_penalty=0.5, repetition_penalty=1.1)


@pytest.mark.parametrize("model", ["llama", "sliding_window", "state_space", "chunked"])
def test_cold_warm_in_a_batch_and_after_a_failed_step_the_whole_sequence_is_shown(
    model: str, new_engine: Callable[..., RecordingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = new_engine(model, prefill_chunk=16, busy_prefill_chunk=8)
    prompt = encode(engine, "one two three four five six seven eight nine ten " * 2)
    request = Generate("a", tokens=prompt, max_tokens=12, ignore_eos=True, sampling=PENALIZED)
    others = [Generate(f"o{i}", tokens=prompt[i:], max_tokens=9, sampling=GREEDY) for i in range(1, 4)]
    witness = Witness(engine._maker._samplers)
    monkeypatch.setattr(engine._maker, "_samplers", witness)

    def told(*beside: Generate) -> list[int]:
        witness.seen.clear()
        reply = run(engine, request, *beside)["a"]
        assert len(reply.tokens) == 12
        sequence = prompt + reply.tokens
        # Also that of the step after the last token, which is computed and thrown away.
        assert sorted({len(one) for one in witness.seen}) == list(range(len(prompt), len(sequence) + 1))
        assert all(one == sequence[: len(one)] for one in witness.seen)
        assert witness.prompts == {len(prompt)}
        return reply.tokens

    cold = told()
    assert run(engine, request)["a"].cached == (len(prompt) - 1)
    assert told() == cold
    told(*others)
    step, steps = type(engine._running.batch).step, []

    def failing(self: Any) -> Any:
        steps.append(1)
        if len(steps) == 10:
            raise RuntimeError("sabotage")
        return step(self)

    monkeypatch.setattr(type(engine._running.batch), "step", failing)
    assert told() == cold


@pytest.mark.parametrize("seed", range(6))
def test_replies_are_those_of_a_loop_of_our_own(
    seed: int, new_engine: Callable[..., RecordingEngine]
) -> None:
    """Greedy, with penalties and biases of all signs, ten sequences in one batch."""
    engine, chance = new_engine("llama"), random.Random(seed)
    cases: dict[str, tuple[list[int], Sampling]] = {}
    for i in range(10):
        prompt = [chance.randrange(60) for _ in range(chance.randint(1, 30))]
        drawn = random_sampling(chance)
        bias = {chance.choice([0, 5, engine._vocab_size - 1]): chance.choice([-100.0, 3.0])}
        cases[str(i)] = (
            prompt,
            Sampling(
                0,
                None,
                None,
                None,
                None,
                drawn.repetition_penalty,
                drawn.presence_penalty,
                drawn.frequency_penalty,
                bias,
            ),
        )
    replies = run(
        engine,
        *[
            Generate(name, tokens=prompt, max_tokens=8, ignore_eos=True, sampling=sampling)
            for name, (prompt, sampling) in cases.items()
        ],
    )
    for name, (prompt, sampling) in cases.items():
        generated: list[int] = []
        for token in replies[name].tokens:
            logits = np.array(engine._model(mx.array([prompt + generated]))[0, -1].astype(mx.float32))
            wanted = expected(logits, prompt, generated, sampling)
            assert wanted[token] >= wanted.max() - 1e-3, (name, sampling)
            generated.append(token)
        assert len(generated) == 8


# ---------------------------------------------------------------------------- extremes


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.0),
        Sampling(temperature=1e-40, seed=1),
        Sampling(temperature=5e-324),
        Sampling(temperature=1e-6, top_p=0.5),
        Sampling(temperature=1.0, top_p=0.0),
        Sampling(temperature=1.0, top_p=1e-300, seed=2),
        Sampling(temperature=1e-5, seed=3),
        Sampling(temperature=2.0, top_k=1),
        Sampling(temperature=2.0, min_p=1.0, seed=2**63 - 1),
        Sampling(temperature=2.0, top_p=1e-6),
    ],
)
@pytest.mark.parametrize("kind", [mx.float32, mx.bfloat16, mx.float16])
def test_what_leaves_one_token_takes_the_best(sampling: Sampling, kind: mx.Dtype) -> None:
    numbers = np.random.default_rng(3)
    sampler = Samplers(VOCABULARY, {}).sampler(sampling)
    for _ in range(20):
        logits = mx.array(numbers.permutation(VOCABULARY).astype(np.float32)).astype(kind)[None] / 4
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        best = mx.argmax(logits, axis=-1)
        # Neighbours may be one number in half a precision.
        assert logprobs[0, sampler(logprobs)[0]].item() == logprobs[0, best[0]].item()


def test_a_temperature_of_nothing_shares_the_greedy_sampler() -> None:
    assert Samplers(VOCABULARY, {}).sampler(Sampling(temperature=1e-9, seed=4)) is greedy_sampler


def edges(low: float, high: float) -> st.SearchStrategy[float]:
    inside = [low, high, *(one for one in (0.0, 1.0, 1e-40, 5e-324, 1e-6) if low <= one <= high)]
    return st.sampled_from(inside) | st.floats(low, high)


def whole_space(vocab_size: int) -> st.SearchStrategy[Sampling]:
    def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.none() | strategy

    ids = st.sampled_from([0, vocab_size - 1]) | st.integers(0, vocab_size - 1)
    numbers = {name: maybe(edges(*limits)) for name, limits in LIMITS.items()}
    return st.builds(
        Sampling,
        top_k=maybe(st.sampled_from([-1, 0, 1, vocab_size - 1, vocab_size, 2**31 - 1]) | st.integers(0, 700)),
        seed=maybe(st.sampled_from([0, -(2**63), 2**63 - 1, 2**64]) | st.integers()),
        logit_bias=maybe(st.dictionaries(ids, edges(-MAX_BIAS, MAX_BIAS), max_size=5)),
        **numbers,
    )


@pytest.fixture(scope="module")
def steady(model_paths: dict[str, Path]) -> Callable[[], RecordingEngine]:
    """An engine in which a failed step is a failed test."""
    engine = load_engine(model_paths["tiny"])

    def raise_it(error: Exception) -> Any:
        raise error

    engine._recover = raise_it  # type: ignore[method-assign]
    return lambda: engine


@given(data=st.data())
def test_no_sampling_raises_in_the_shared_step(
    steady: Callable[[], RecordingEngine], data: st.DataObject
) -> None:
    engine = steady()
    samplings = data.draw(st.lists(whole_space(engine._vocab_size), min_size=1, max_size=3))
    requests = [
        Generate(str(i), tokens=[5, 6, i], max_tokens=2, ignore_eos=True, logprobs=20, sampling=sampling)
        for i, sampling in enumerate(samplings)
    ]
    for reply in run(engine, *requests).values():
        assert reply.fault is None
        assert len(reply.tokens) == 2
        assert all(0 <= token < engine._vocab_size for token in reply.tokens)


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("beyond", [float("nan"), float("inf"), -float("inf"), 1e6, -1e6])
def test_beyond_the_limits_is_refused_by_name(name: str, beyond: float) -> None:
    with pytest.raises(FaultError) as caught:
        check_sampling(Sampling(**{name: beyond}))  # type: ignore[arg-type]
    assert (caught.value.fault.code, caught.value.fault.param) == (FaultCode.INVALID_REQUEST, name)


@pytest.mark.parametrize("bias", [float("nan"), float("inf"), -1e5])
def test_a_bias_that_is_no_number_is_refused(bias: float) -> None:
    with pytest.raises(FaultError) as caught:
        check_sampling(Sampling(logit_bias={3: bias}))
    assert caught.value.fault.param == "logit_bias"


def test_biases_of_a_hundred_force_and_forbid_at_the_edges_of_the_vocabulary(tiny: RecordingEngine) -> None:
    last = tiny._vocab_size - 1
    conversation = Conversation(tiny)
    for token in (0, last):
        forced = Sampling(temperature=1.0, logit_bias={token: 100.0})
        forbidden = Sampling(temperature=1.0, logit_bias={token: -100.0}, seed=token)
        for name, sampling in (("forced", forced), ("forbidden", forbidden)):
            conversation.submit(
                Generate(f"{name} {token}", tokens=[9, 8], max_tokens=6, ignore_eos=True, sampling=sampling)
            )
    conversation.finish()
    for token in (0, last):
        assert conversation.replies[f"forced {token}"].tokens == [token] * 6
        assert token not in conversation.replies[f"forbidden {token}"].tokens
