"""`pull` and `rm` at a real terminal: bars that fit its width, questions, Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pexpect
import pyte
import pytest

from tests.hub.conftest import NAME, Machine, model_files
from tests.hub.stand_in import Fault, Hub

LIMIT_S = 60

Spawn = Callable[..., Any]


class Screen:
    """What a terminal of that width shows of everything that was printed so far."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._screen = pyte.Screen(columns, 24)
        self._stream = pyte.Stream(self._screen)

    def write(self, text: str) -> None:
        self._stream.feed(text)

    def flush(self) -> None:
        pass

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display).strip()


@pytest.fixture
def spawn(machine: Machine) -> Iterator[Spawn]:
    children = []

    def begin(columns: int, *arguments: str, **env: str) -> Any:
        command = machine.command(*arguments)
        child = pexpect.spawn(
            command[0],
            command[1:],
            env={**machine.env, "TERM": "xterm-256color", **env},
            dimensions=(24, columns),
            encoding="utf-8",
            timeout=LIMIT_S,
        )
        child.logfile_read = Screen(columns)
        children.append(child)
        return child

    yield begin
    for child in children:
        child.close(force=True)


@pytest.mark.parametrize("columns", [80, 200])
def test_bars_fit_the_terminal_and_leave_one_sentence(
    hub: Hub, machine: Machine, spawn: Spawn, columns: int
) -> None:
    hub.add(NAME, model_files(3_000_000))
    hub.storage_faults["model.safetensors"] = Fault(hold_after=1_500_000, times=1)
    child = spawn(columns, "pull", NAME)
    child.expect_exact("model.safetensors")
    child.expect_exact("1.5/3.0 MB")
    shown = child.logfile_read.text
    bars = [line for line in shown.splitlines() if "MB" in line and "━" in line]
    assert bars, shown
    assert max(map(len, shown.splitlines())) <= columns
    hub.release.set()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
    left = child.logfile_read.text.splitlines()
    assert left[-1].startswith(f"pulled {NAME}: 3.0 MB in ")
    assert "━" not in child.logfile_read.text, "the bars are gone when it is over"


def test_ctrl_c_in_a_download_says_how_to_go_on(hub: Hub, machine: Machine, spawn: Spawn) -> None:
    hub.add(NAME, model_files(3_000_000))
    hub.storage_faults["model.safetensors"] = Fault(hold_after=1_500_000, times=1)
    child = spawn(80, "pull", NAME)
    child.expect_exact("1.5/3.0 MB")
    child.sendintr()
    child.expect_exact("the same command goes on")
    child.expect(pexpect.EOF)
    child.wait()
    hub.release.set()
    assert child.exitstatus == 130
    assert "Traceback" not in child.logfile_read.text


def test_ctrl_c_at_the_question_removes_nothing(hub: Hub, machine: Machine, spawn: Spawn) -> None:
    hub.add(NAME, model_files())
    machine.mlxk("pull", NAME)
    before = machine.files()
    child = spawn(80, "rm", NAME)
    child.expect_exact("[y/N]")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 130
    assert machine.files() == before


def test_yes_at_the_question_removes_it(hub: Hub, machine: Machine, spawn: Spawn) -> None:
    hub.add(NAME, model_files())
    machine.mlxk("pull", NAME)
    child = spawn(80, "rm", NAME)
    child.expect_exact("[y/N]")
    child.sendline("y")
    child.expect_exact(f"removed {NAME}, freed 300 KB")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
    assert not os.path.lexists(machine.repo())


def test_a_terminal_that_knows_no_unicode_and_no_colour(hub: Hub, machine: Machine, spawn: Spawn) -> None:
    hub.add(NAME, model_files())
    child = spawn(80, "pull", NAME, NO_COLOR="1", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
    assert f"pulled {NAME}" in child.logfile_read.text
