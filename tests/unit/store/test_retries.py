"""When the hub is asked again."""

from __future__ import annotations

import threading

import pytest

from mlxk.store.hub_errors import CancelledError, TransferError
from mlxk.store.retries import RetryPolicy, wait_s, with_retries

POLICY = RetryPolicy(attempts=4, first_wait_s=0.5, longest_wait_s=1.5, longest_asked_s=60.0)
AT_ONCE = RetryPolicy(attempts=3, first_wait_s=0.0)


def test_waits_double_up_to_the_longest_and_then_it_is_given_up() -> None:
    assert [wait_s(POLICY, failures, None) for failures in (1, 2, 3, 4)] == [0.5, 1.0, 1.5, None]


def test_what_the_hub_asks_for_is_obeyed_unless_it_is_a_refusal() -> None:
    assert wait_s(POLICY, 1, 30.0) == 30.0
    assert wait_s(POLICY, 1, 3600.0) is None
    assert wait_s(POLICY, 4, 1.0) is None


def test_bytes_that_came_begin_the_count_anew() -> None:
    calls: list[int] = []

    def attempt() -> int:
        calls.append(1)
        if len(calls) < 10:
            raise TransferError("cut", moved=True)
        return len(calls)

    assert with_retries(attempt, AT_ONCE, threading.Event(), lambda _text: None) == 10


def test_the_last_failure_is_raised_and_every_wait_is_said() -> None:
    notes: list[str] = []

    def attempt() -> None:
        raise TransferError("cut")

    with pytest.raises(TransferError):
        with_retries(attempt, AT_ONCE, threading.Event(), notes.append)
    assert notes == ["cut; again in 0.0 s"] * 2


def test_a_wait_ends_when_it_is_cancelled() -> None:
    cancel = threading.Event()
    cancel.set()

    def attempt() -> None:
        raise TransferError("busy", 60.0)

    with pytest.raises(CancelledError):
        with_retries(attempt, POLICY, cancel, lambda _text: None)
