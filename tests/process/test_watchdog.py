"""An event loop that is really stuck: the signals and the watchdog have threads of their own."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process import stuck_front
from tests.process.client import Request
from tests.process.watch import assert_nothing_left, press_again, until, workers_of
from tests.server import Server, add_fake_model, wait_gone

INTERRUPTED = 130
SHORT_S = 0.5
LONG_S = 100.0
TIME_LIMIT_S = 15.0


@pytest.fixture
def stuck(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with a loaded model whose loop stands still."""
    add_fake_model(tmp_path, "a")
    env = {
        "MLXK_ENGINE": "fake",
        "MLXK_SPARE": "0",
        "MLXK_STOP_GRACE": "100ms",
        "MLXK_DRAIN_TIMEOUT": "100ms",
        "STUCK_WHEN": str(tmp_path / "stuck"),
        "STUCK_MARGIN_S": str(request.param),
        "PYTHONPATH": str(Path(stuck_front.__file__).parents[2]),
    }
    server = Server(tmp_path, env=env, program=["-m", "tests.process.stuck_front"])
    try:
        with Request(server, "a") as first:
            first.text()
        (tmp_path / "stuck").touch()
        until((tmp_path / "stuck.now").exists)
        yield server
    finally:
        server.process.kill()
        server.wait()


@pytest.mark.parametrize("stuck", [SHORT_S], indirect=True)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 1)], ids=["SIGINT", "SIGTERM"]
)
def test_the_watchdog_ends_a_server_whose_loop_is_stuck(stuck: Server, number: int, code: int) -> None:
    workers = workers_of(stuck)
    assert workers
    stuck.signal(number)
    assert stuck.wait(TIME_LIMIT_S) == code
    assert "took too long" in stuck.log()
    assert "leaves at once: the watchdog" in stuck.log()
    assert wait_gone(workers, 2) == []
    assert_nothing_left(stuck)


@pytest.mark.parametrize("stuck", [LONG_S], indirect=True)
def test_a_second_ctrl_c_ends_a_server_whose_loop_is_stuck_at_once(stuck: Server) -> None:
    workers = workers_of(stuck)
    began = time.monotonic()
    stuck.signal(signal.SIGINT)
    stuck.signal(signal.SIGHUP)  # nobody can carry it out: it must not get in the way
    press_again(stuck.process)
    assert stuck.wait(TIME_LIMIT_S) == INTERRUPTED
    assert time.monotonic() - began < TIME_LIMIT_S
    assert wait_gone(workers, 2) == []
    assert_nothing_left(stuck)
