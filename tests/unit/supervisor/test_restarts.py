"""When a model whose process died is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlxk.supervisor.restarts import MAX_DEATHS, MAX_WAIT_S, WINDOW_S, GiveUp, RetryAt, after_death


def test_the_first_death_costs_no_wait() -> None:
    assert after_death((100.0,), 100.0) == RetryAt(100.0)


def test_the_wait_doubles() -> None:
    waits = []
    for count in range(1, MAX_DEATHS):
        answer = after_death((100.0,) * count, 100.0)
        assert isinstance(answer, RetryAt)
        waits.append(answer.time - 100.0)
    assert waits == [0.0, 0.5, 1.0, 2.0]


def test_five_deaths_in_a_minute_are_enough() -> None:
    assert after_death((1.0, 2.0, 3.0, 4.0, 5.0), 5.0) == GiveUp(5)


def test_deaths_long_ago_are_forgotten() -> None:
    long_ago = tuple(float(number) for number in range(4))
    assert after_death((*long_ago, 1000.0), 1000.0) == RetryAt(1000.0)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=20))
def test_the_answer_is_a_bounded_wait_or_the_end(times: list[float]) -> None:
    deaths = tuple(sorted(times))
    now = deaths[-1]
    recent = sum(1 for t in deaths if now - t <= WINDOW_S)
    match after_death(deaths, now):
        case RetryAt(when):
            assert recent < MAX_DEATHS
            assert now <= when <= now + MAX_WAIT_S
        case GiveUp(count):
            assert count == recent >= MAX_DEATHS
