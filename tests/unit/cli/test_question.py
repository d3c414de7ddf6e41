"""A question to the person at the terminal: its answers, and a Ctrl-C that no read is interrupted by."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from mlxk.cli.question import agreed
from tests.process.watch import until


@pytest.fixture
def typist(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The other end of the standard input."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as stdin, os.fdopen(write_end, "wb", buffering=0):
        monkeypatch.setattr("sys.stdin", stdin)
        yield write_end


@pytest.mark.parametrize(
    ("typed", "answer"), [("y\n", True), ("YES\n", True), ("\n", False), ("n\n", False), ("what?\ny\n", True)]
)
def test_only_a_yes_is_one(typist: int, typed: str, answer: bool) -> None:
    def type_on() -> None:  # as a terminal gives them: one line a read
        for line in typed.splitlines(keepends=True):
            until(lambda: not select.select([sys.stdin], [], [], 0)[0])
            os.write(typist, line.encode())

    typing = threading.Thread(target=type_on)
    typing.start()
    assert agreed("Remove it?") is answer
    typing.join()


def test_a_ctrl_c_that_interrupts_no_read_is_heard(typist: int) -> None:
    """Taken by another thread, it leaves this one's read alone: as one that comes just before the read."""

    def press() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if not heard.wait(20):
            lost.set()
            os.write(typist, b"y\n")  # let the test fail instead of hang

    heard, lost = threading.Event(), threading.Event()
    presser = threading.Timer(0.05, press)

    def ask() -> None:
        presser.start()  # a Ctrl-C that comes before the question must not end the test run
        agreed("Remove it?")

    try:
        with pytest.raises(KeyboardInterrupt):
            ask()
    finally:
        heard.set()
        presser.join()
    assert not lost.is_set()
    assert signal.set_wakeup_fd(-1) == -1  # it was given back
