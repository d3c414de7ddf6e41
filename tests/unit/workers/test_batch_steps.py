"""What one step of the batch does, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from mlxk.store.builtin import builtin_path
from mlxk.workers import mlx_adapter as adapter
from mlxk.workers.sampling import greedy_sampler
from tests.models import MODEL_KINDS
from tests.unit.workers.engines import RecordingEngine

PROMPTS = [[*range(40, 40 + n)] for n in (9, 30, 4, 17)]


@pytest.fixture(scope="module")
def model() -> Any:
    return adapter.read_model(str(builtin_path()), trust_remote_code=False, progress=lambda *_: None).model


class Run:
    """A batch, and the tokens that each of its sequences got."""

    def __init__(self, model: Any, *, ahead: bool, chunk: int = 64) -> None:
        self.batch = adapter.Batch(
            model, max_sequences=8, prefill_chunk=chunk, busy_prefill_chunk=8, ahead=ahead
        )
        self.tokens: dict[int, list[int]] = {}
        self.kept: dict[int, tuple[list[int], int]] = {}

    def insert(self, prompt: list[int], max_tokens: int = 6, stop_ids: frozenset[int] = frozenset()) -> int:
        uid = self.batch.insert(
            [prompt],
            cache=None,
            cached_tokens=[],
            max_tokens=max_tokens,
            sampler=greedy_sampler,
            processors=[],
            stop_ids=stop_ids,
        )
        self.tokens[uid] = []
        return uid

    def step(self) -> list[adapter.BatchProgress]:
        tokens, progress = self.batch.step()
        for token in tokens:
            self.tokens[token.uid].append(token.token)
            if token.finish is not None:
                assert token.cache is not None
                self.kept[token.uid] = (list(token.tokens or []), token.cache[0].size())
        return progress


@pytest.fixture(params=[True, False], ids=["ahead", "paced"])
def ahead(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_the_step_that_completes_a_prompt_gives_its_first_token(model: Any, ahead: bool) -> None:
    run = Run(model, ahead=ahead)
    first = run.insert(PROMPTS[0])
    run.step()
    assert len(run.tokens[first]) == 1
    second = run.insert(PROMPTS[2])
    run.step()
    assert (len(run.tokens[first]), len(run.tokens[second])) == (2 if ahead else 1, 1)
    if not ahead:  # the running one's step follows, and has the joining one's first token, too
        run.step()
        assert (len(run.tokens[first]), len(run.tokens[second])) == (2, 1)
    run.step()
    assert (len(run.tokens[first]), len(run.tokens[second])) == (3, 2)
    run.batch.close()


def test_running_sequences_wait_for_one_prefill_only(model: Any) -> None:
    """Prompts that come in every step do not keep those that decode from decoding."""
    run = Run(model, ahead=False)
    first = run.insert(PROMPTS[0], max_tokens=40)
    run.step()
    for n in range(1, 6):
        run.insert(PROMPTS[2])
        run.step()
        run.insert(PROMPTS[2])
        run.step()
        assert len(run.tokens[first]) >= 1 + n
    run.batch.close()


@pytest.mark.parametrize("ends_by", ["length", "stop"])
def test_a_first_token_that_ends_a_sequence_comes_once_with_its_end(model: Any, ends_by: str) -> None:
    """A short prompt beside a running sequence."""
    run = Run(model, ahead=False)
    probe = run.insert(PROMPTS[2], max_tokens=1)
    run.step()
    (token,) = run.tokens[probe]
    run.insert(PROMPTS[0], max_tokens=20)
    run.step()
    ends_at_once = run.insert(
        PROMPTS[2], 1 if ends_by == "length" else 6, stop_ids=frozenset([token] if ends_by == "stop" else [])
    )
    run.step()
    assert run.tokens[ends_at_once] == [token]
    assert run.kept[ends_at_once] == ([*PROMPTS[2], token], len(PROMPTS[2]) + 1)
    run.batch.close()


def test_one_that_leaves_after_its_first_token_leaves_its_prompt(model: Any) -> None:
    run = Run(model, ahead=False)
    first = run.insert(PROMPTS[0], max_tokens=20)
    run.step()
    second = run.insert(PROMPTS[2])
    run.step()
    assert len(run.tokens[second]) == 1
    removed = run.batch.remove(second)
    assert removed is not None
    assert removed[1] == PROMPTS[2]
    assert removed[0][0].size() == len(PROMPTS[2])
    run.step()
    assert len(run.tokens[second]) == 1
    assert len(run.tokens[first]) == 2
    run.batch.close()


def test_both_orders_give_the_same_tokens_and_keep_what_they_say(model: Any) -> None:
    results = []
    for ahead in (True, False):
        run = Run(model, ahead=ahead)
        uids = []
        for prompt in PROMPTS:
            uids.append(run.insert(prompt))
            run.step()
        removed = run.batch.remove(uids[1])
        assert removed is not None
        assert len(removed[1]) == removed[0][0].size()
        while len(run.kept) < len(PROMPTS) - 1:
            run.step()
        for tokens, in_cache in run.kept.values():
            assert len(tokens) == in_cache
        del run.tokens[uids[1]]
        results.append(run.tokens)
        run.batch.close()
    assert results[0] == results[1]
    assert all(len(tokens) == 6 for tokens in results[0].values())


def test_prompts_that_come_beside_a_stream_share_one_steps_tokens(model: Any, ahead: bool) -> None:
    run = Run(model, ahead=ahead)
    run.insert(PROMPTS[0], max_tokens=40)
    run.step()
    run.insert(PROMPTS[1])
    (alone,) = run.step()
    assert alone.done == 8
    for _ in range(6):
        run.insert([*range(50, 90)])
    progress = run.step()
    assert len(progress) == 7
    limit = adapter.BUSY_PREFILL_CHUNKS * 8
    assert [p.done for p in progress] == [8 + limit // 7] + 6 * [limit // 7]
    run.batch.close()


@pytest.mark.parametrize("kind", sorted({"sliding_window", "state_space"} & set(MODEL_KINDS)))
def test_a_checkpoint_is_taken_before_the_prompt_goes_on(kind: str, new_engine: Any) -> None:
    engine: RecordingEngine = new_engine(kind)
    batch = engine._running.batch
    uid = batch.insert(
        [PROMPTS[1]],
        cache=None,
        cached_tokens=[],
        max_tokens=4,
        sampler=greedy_sampler,
        processors=[],
        stop_ids=frozenset(),
    )
    tokens, (progress,) = batch.step()
    assert not tokens
    assert progress.at_boundary
    found = batch.extract(uid)
    assert found is not None
    assert found[1] == PROMPTS[1][:-1]
    assert len(batch.step()[0]) == 1
    batch.discard(uid)
