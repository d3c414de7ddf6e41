"""The table of moves, and what is said of an exit."""

from __future__ import annotations

import itertools
import os
import signal

import pytest

from mlxk.supervisor.exits import death_fault, describe_exit, exit_report
from mlxk.supervisor.states import MOVES, IllegalMove, StopStep, WorkerState, check_move


def test_every_state_may_end_and_nothing_follows_the_end() -> None:
    for state in WorkerState:
        assert (WorkerState.EXITED in MOVES[state]) == (state is not WorkerState.EXITED)


def test_no_state_is_entered_twice() -> None:
    order = list(WorkerState)
    for state, target in itertools.product(WorkerState, WorkerState):
        if target in MOVES[state]:
            assert order.index(state) < order.index(target)


def test_an_illegal_move_says_which() -> None:
    with pytest.raises(IllegalMove, match="starting -> ready"):
        check_move(WorkerState.STARTING, WorkerState.READY)


def status_of_code(code: int) -> int:
    return code << 8


def test_an_exit_code_is_told_from_a_signal() -> None:
    by_code = exit_report(status_of_code(17), StopStep.NONE, ())
    assert (by_code.code, by_code.signal) == (17, None)
    assert os.waitstatus_to_exitcode(status_of_code(17)) == 17
    by_signal = exit_report(signal.SIGSEGV, StopStep.NONE, ())
    assert (by_signal.code, by_signal.signal) == (None, signal.SIGSEGV)


@pytest.mark.parametrize(
    ("status", "step", "words"),
    [
        (status_of_code(17), StopStep.NONE, "exit code 17"),
        (signal.SIGSEGV, StopStep.NONE, "killed by SIGSEGV"),
        (signal.SIGKILL, StopStep.NONE, "memory ran out"),
        (signal.SIGKILL, StopStep.KILLED, "killed by SIGKILL"),
        (70, StopStep.NONE, "killed by signal 70"),
    ],
)
def test_people_are_told_how_a_process_ended(status: int, step: StopStep, words: str) -> None:
    text = describe_exit(exit_report(status, step, ()))
    assert words in text
    assert ("memory" in text) == (words == "memory ran out")


def test_a_clients_request_may_be_tried_again_after_a_death() -> None:
    fault = death_fault(exit_report(signal.SIGSEGV, StopStep.NONE, ()))
    assert fault.retryable
    assert "SIGSEGV" in fault.message


def test_a_clients_request_is_told_what_the_process_said_last() -> None:
    last = "libc++abi: terminating, token hf_abcdefghijklmnopqrstuv"
    lines = ("long ago", "before that", last, "--- w1 has ended")
    message = death_fault(exit_report(signal.SIGABRT, StopStep.NONE, lines)).message
    assert "before that" in message
    assert "libc++abi: terminating" in message
    assert "long ago" not in message
    assert "hf_abc" not in message
    assert "w1 has ended" not in message
