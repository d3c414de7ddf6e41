"""A later order can only hasten the end."""

from __future__ import annotations

from mlxk.supervisor.shutdown import EXIT_INTERRUPTED, EXIT_OK, ShutdownPlan

TERM = ShutdownPlan(EXIT_OK, drain_s=30, grace_s=10)
CTRL_C = ShutdownPlan(EXIT_INTERRUPTED, drain_s=0, grace_s=3)


def test_ctrl_c_hastens_a_drain() -> None:
    assert TERM.hastened_by(CTRL_C) == CTRL_C


def test_sigterm_after_ctrl_c_changes_nothing() -> None:
    assert CTRL_C.hastened_by(TERM) == CTRL_C


def test_the_same_order_again_changes_nothing() -> None:
    assert TERM.hastened_by(TERM) is TERM


def test_stop_now_hastens_a_drain_and_keeps_the_exit_code() -> None:
    now = ShutdownPlan(EXIT_OK, drain_s=0, grace_s=10)
    assert TERM.hastened_by(now) == now


def test_what_is_quicker_in_one_respect_takes_over_only_that() -> None:
    slow_grace = ShutdownPlan(EXIT_OK, drain_s=0, grace_s=60)
    assert CTRL_C.hastened_by(slow_grace) == CTRL_C
    assert TERM.hastened_by(slow_grace) == ShutdownPlan(EXIT_OK, 0, 10)


def test_who_hastens_is_named() -> None:
    first = ShutdownPlan(EXIT_OK, 30, 10, "SIGTERM")
    assert first.hastened_by(ShutdownPlan(EXIT_INTERRUPTED, 0, 3, "SIGINT")).cause == "SIGINT"
    assert first.hastened_by(ShutdownPlan(EXIT_OK, 60, 10, "SIGTERM again")).cause == "SIGTERM"


def test_the_watchdog_waits_longer_than_the_orderly_end_may_take() -> None:
    assert TERM.limit_s > TERM.drain_s + 2 * TERM.grace_s + 2
