"""A short soak in every run of the suite, so that it cannot rot; a longer one with `-m soak`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def soak(minutes: float, limit_s: float, *arguments: str) -> str:
    """Its output; fails with it if it found anything."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", str(minutes), *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(400)
def test_some_seconds_of_it_break_nothing() -> None:
    output = soak(0.1, 390, "--seed", "1")
    assert "nothing was lost, nothing was left behind" in output
    assert "seed 1" in output
    for row in ("| fake | stream |", "| mlx | stream |", "| fake | end of the server: Ctrl-C |"):
        assert row in output


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_three_minutes_of_it_break_nothing() -> None:
    soak(3, 1100)
