"""`pull` and `rm` at a real terminal: bars that fit its width, questions, Ctrl-C."""

from __future__ import annotations

import os

import pytest

from tests.hub.conftest import NAME, Machine, model_files
from tests.hub.stand_in import Fault, Hub
from tests.terminal import Terminal


def at_terminal(machine: Machine, *arguments: str, columns: int = 80, **env: str) -> Terminal:
    return Terminal(arguments, {**machine.env, **env}, columns=columns)


@pytest.mark.parametrize("columns", [80, 200])
def test_bars_fit_the_terminal_and_leave_one_sentence(hub: Hub, machine: Machine, columns: int) -> None:
    hub.add(NAME, model_files(3_000_000))
    hub.storage_faults["model.safetensors"] = Fault(hold_after=1_500_000, times=1)
    with at_terminal(machine, "pull", NAME, columns=columns) as terminal:
        shown = terminal.wait_text(r"model\.safetensors.*1\.5/3\.0 MB")
        assert [line for line in shown.splitlines() if "MB" in line and "━" in line], shown
        assert max(map(len, shown.splitlines())) <= columns
        hub.release.set()
        assert terminal.wait_end() == 0
        assert terminal.lines()[-1].startswith(f"pulled {NAME}: 3.0 MB in ")
        assert "━" not in terminal.text(), "the bars are gone when it is over"


def test_ctrl_c_in_a_download_says_how_to_go_on(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files(3_000_000))
    hub.storage_faults["model.safetensors"] = Fault(hold_after=1_500_000, times=1)
    with at_terminal(machine, "pull", NAME) as terminal:
        terminal.wait_text(r"1\.5/3\.0 MB")
        terminal.press("c")
        code = terminal.wait_end()
        hub.release.set()
        assert code == 130
        assert "the same command goes on" in " ".join(terminal.lines())
        assert "Traceback" not in terminal.text()


def test_ctrl_c_at_the_question_removes_nothing(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    machine.mlxk("pull", NAME)
    before = machine.files()
    with at_terminal(machine, "rm", NAME) as terminal:
        terminal.wait_text(r"\[y/N\]")
        terminal.press("c")
        assert terminal.wait_end() == 130
    assert machine.files() == before


def test_yes_at_the_question_removes_it(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    machine.mlxk("pull", NAME)
    with at_terminal(machine, "rm", NAME) as terminal:
        terminal.wait_text(r"\[y/N\]")
        terminal.enter("y")
        assert terminal.wait_end() == 0
        assert f"removed {NAME}, freed 300 KB" in terminal.text()
    assert not os.path.lexists(machine.repo())


def test_a_terminal_that_knows_no_unicode_and_no_colour(hub: Hub, machine: Machine) -> None:
    hub.add(NAME, model_files())
    plain = {"NO_COLOR": "1", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with at_terminal(machine, "pull", NAME, **plain) as terminal:
        assert terminal.wait_end() == 0
        assert f"pulled {NAME}" in terminal.text()
