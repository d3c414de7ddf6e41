"""What the scenes of the bench make of their streams. The streams are made up; no speed is judged."""

from __future__ import annotations

import pytest

from bench import scene_prefill, scene_prefix
from bench.client import Stream
from bench.limit_cases import _shared
from bench.words import _tokenizer, fresh_text


def test_a_fresh_text_has_its_length_and_never_repeats() -> None:
    first, second = fresh_text(300), fresh_text(300)
    assert len(_tokenizer().encode(first).ids) == 300
    assert first[:60] != second[:60]


def test_gaps_are_those_that_reach_into_the_window() -> None:
    stream = Stream(0.0, [1.0, 1.1, 2.1, 2.2, 3.0])
    assert scene_prefill.gaps_within([stream], 1.5, 2.15) == pytest.approx([1000.0, 100.0])


def test_the_eight_are_measured_before_and_during_the_prefill() -> None:
    eight = [
        Stream(0.0, [*(n * 0.01 for n in range(21)), *(0.4 + n * 0.05 for n in range(6))]) for _ in range(8)
    ]
    short = Stream(0.2, [0.225])
    long, second = Stream(0.41, [0.62]), Stream(0.7, [0.9])
    found = scene_prefill.rows([*eight, short, long, second, Stream(0.75, [0.78])], chunk_step_ms=25.0)
    assert found["8 streams decode"]["inter_token_ms_p50"] == pytest.approx(10.0)
    during = found["a long prompt arrives"]
    assert during["inter_token_ms_max"] == pytest.approx(50.0)
    assert during["chunk_steps_p95"] == pytest.approx(2.0)
    beside = found["a short request beside the 8"]
    assert beside["ttft_steps"] == pytest.approx(2.5)
    assert beside["over_two_steps_ms"] == pytest.approx(5.0)


def test_a_case_tells_how_many_times_shorter_and_what_was_cached() -> None:
    def row(warm_ms: float, cached: int) -> dict[str, float]:
        return {
            "ttft_cold_ms": 100.0,
            "ttft_warm_ms": warm_ms,
            "cached_tokens": cached,
            "prompt_tokens": 50,
        }

    found = scene_prefix.figures([row(10.0, 40), row(5.0, 49), row(20.0, 30)])
    assert (found["times_shorter"], found["cached_tokens"]) == (10.0, 40)


@pytest.mark.parametrize(
    ("before", "after", "shared"),
    [([1, 2, 3], [1, 2, 4], 2), ([1, 2, 3], [1, 2, 3], 2), ([1, 2], [1, 2, 3], 2), ([], [1], 0)],
)
def test_the_limit_computes_at_least_the_last_token(before: list[int], after: list[int], shared: int) -> None:
    assert _shared(before, after) == shared


def test_every_promise_on_prefixes_is_about_a_case_that_is_measured() -> None:
    models = ("tiny", "5m", *scene_prefix.UNTRIMMABLE)
    labels = {case.label for model in models for case in scene_prefix.cases_for(model, quick=False)}
    assert {target.case for target in scene_prefix.SCENE.targets} <= labels
