"""Ctrl-C while modules are read in."""

from __future__ import annotations

import os
import signal

import pytest

from mlxk.cli.interrupts import interrupt_later


def test_a_ctrl_c_in_the_block_comes_at_its_end() -> None:
    done = []

    def read_in() -> None:
        with interrupt_later():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("all of the block")

    with pytest.raises(KeyboardInterrupt):
        read_in()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_one_nothing_happens() -> None:
    with interrupt_later():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
