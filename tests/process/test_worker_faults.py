"""A worker dies, hangs or floods: its own requests are told, the others go on, the next one works."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from mlxk.config.log_files import model_log
from mlxk.supervisor.control_client import ControlError
from tests.process.client import Request, ask_all
from tests.process.watch import count_spawns, pid_of, until
from tests.server import Server, add_fake_model, is_alive, standing, wait_gone

FOREVER = 1_000_000
ABORT_GRACE_S = 2.0
"""Who hangs does so for good; who does not must hear and answer within it, on a busy machine, too."""
STOP_GRACE_S = 0.3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("home")
    for name in ("victim", "bystander"):
        add_fake_model(home, name, step_s=0.005)
    add_fake_model(home, "crasher", crash_at_step=3)
    add_fake_model(home, "fatal", die_in_load=True)
    add_fake_model(home, "refuser", load_fails=True)
    add_fake_model(home, "hanger", hang_at_step=5)
    add_fake_model(home, "laggard", slow_abort_s=60, step_s=0.005)
    add_fake_model(home, "deaf", deaf_to_shutdown=True, ignore_sigterm=True)
    add_fake_model(home, "stalled", load_hangs=True)
    add_fake_model(home, "flood", flood_log_lines=20_000)
    add_fake_model(home, "longline", long_log_line_bytes=1_000_000)
    add_fake_model(home, "novel", prefill_steps=2, prefill_step_s=2.5)
    add_fake_model(home, "library", prefill_steps=40, prefill_step_s=0.1)
    add_fake_model(home, "parent", grandchild=True)
    add_fake_model(home, "hung-step", hang_at_step=2)
    env = {
        "MLXK_ENGINE": "fake",
        "MLXK_SPARE": "0",
        "MLXK_ABORT_GRACE": f"{ABORT_GRACE_S}s",
        "MLXK_STOP_GRACE": f"{STOP_GRACE_S}s",
        "MLXK_PONG_TIMEOUT": "2s",
        "MLXK_LOAD_STALL": "3s",
    }
    with standing(Server(home, env=env)) as running:
        yield running


def assert_works(server: Server, model: str) -> None:
    with Request(server, model, words=2) as request:
        assert request.text() == "w0 w1"


def test_a_killed_workers_stream_ends_with_an_error_and_the_other_models_goes_on(server: Server) -> None:
    with (
        Request(server, "victim", words=FOREVER, stream=True) as stream,
        Request(server, "victim", words=FOREVER) as whole,
        Request(server, "bystander", words=FOREVER, stream=True) as other,
    ):
        stream.next_event()
        other.next_event()
        server.wait_for(lambda models: models["victim"]["in_flight"] == 2)
        os.kill(pid_of(server, "victim"), signal.SIGKILL)
        assert stream.last_event()["error"]["code"] == "worker_died"
        assert whole.error()["code"] == "worker_died"
        assert whole.status == 503
        for _ in range(5):
            assert "error" not in other.next_event()
    assert_works(server, "victim")


def test_a_crash_is_told_and_the_next_request_has_a_new_worker(server: Server) -> None:
    with Request(server, "crasher", words=FOREVER, stream=True) as stream:
        error = stream.last_error()
    assert error["code"] == "worker_died"
    assert "SIGSEGV" in error["message"]
    assert_works(server, "crasher")
    assert server.ps()["crasher"]["restarts"] == 1


def test_a_death_in_the_load_is_a_503_with_the_logs_last_lines(server: Server) -> None:
    (status, answer), (second, _) = ask_all(server, ["fatal"] * 2)
    assert (status, second) == (503, 503)
    assert answer["error"]["code"] == "model_load_failed"
    assert "dying in load" in answer["error"]["message"]
    assert "exit code 17" in answer["error"]["message"]


def test_five_deaths_fail_the_model_until_somebody_asks_for_it_explicitly(server: Server) -> None:
    codes: list[str] = []
    while not codes or codes[-1] != "model_failed":
        with Request(server, "fatal") as request:
            codes.append(request.error()["code"])
        assert request.status == 503
        assert len(codes) <= 6
    assert server.ps()["fatal"]["state"] == "failed"
    before = count_spawns(server)
    with Request(server, "fatal") as request:
        message = request.error()["message"]
    assert "mlxk load fatal" in message
    assert "dying in load" in message
    assert count_spawns(server) == before
    with pytest.raises(ControlError, match="dying in load"):
        server.call("load", {"models": ["fatal"]})
    assert count_spawns(server) == before + 1


def test_a_load_that_fails_in_order_is_told_with_its_own_reason(server: Server) -> None:
    with Request(server, "refuser") as request:
        error = request.error()
    assert request.status == 503
    assert error["code"] == "model_load_failed"
    assert "told not to load" in error["message"]


def test_a_hung_step_is_noticed_when_the_client_leaves(server: Server) -> None:
    with Request(server, "hanger", words=FOREVER, stream=True) as stream:
        stream.next_event()
        hung = pid_of(server, "hanger")
        # Left before, it would be aborted in order: a client can be quicker than five steps.
        log = model_log(server.home / "logs", "hanger")
        until(lambda: b"hanging in a step" in log.read_bytes())
    took_s = until(lambda: not is_alive(hung))
    assert took_s < ABORT_GRACE_S + 20, "it was not the abort: a step may take 120 s"
    assert_works(server, "hanger")


def test_a_slow_abort_is_given_its_grace_and_no_more(server: Server) -> None:
    with Request(server, "laggard", words=FOREVER, stream=True) as stream:
        stream.next_event()
        slow = pid_of(server, "laggard")
    until(lambda: not is_alive(slow))
    assert_works(server, "laggard")


def test_a_worker_that_was_stopped_by_a_signal_is_found_and_replaced(server: Server) -> None:
    with Request(server, "victim", words=FOREVER, stream=True) as stream:
        stream.next_event()
        frozen = pid_of(server, "victim")
        os.kill(frozen, signal.SIGSTOP)
        assert stream.last_event()["error"]["code"] == "worker_died"
    until(lambda: not is_alive(frozen))
    assert_works(server, "victim")


def test_a_worker_that_is_stopped_only_for_a_moment_goes_on(server: Server) -> None:
    with Request(server, "bystander", words=FOREVER, stream=True) as stream:
        stream.next_event()
        pid = pid_of(server, "bystander")
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.3)  # shorter than the timeout
        os.kill(pid, signal.SIGCONT)
        for _ in range(5):
            assert "error" not in stream.next_event()
        assert pid_of(server, "bystander") == pid


def test_a_deaf_worker_is_killed_by_the_ladder_and_the_stop_waits_for_it(server: Server) -> None:
    assert_works(server, "deaf")
    pid = pid_of(server, "deaf")
    began = time.monotonic()
    (result,) = server.call("stop", {"models": ["deaf"]})["models"]
    assert result["stopped"]
    assert not is_alive(pid)
    assert 2 * STOP_GRACE_S <= time.monotonic() - began < 20, "it was the default grace, 10 s twice"


@pytest.mark.parametrize("model", ["novel", "library"], ids=["long steps", "many steps"])
def test_a_long_prefill_is_not_taken_for_dead(server: Server, model: str) -> None:
    """It takes several times as long as a pong, a load without progress or an abort may."""
    with Request(server, model, words=2) as request:
        assert request.text() == "w0 w1"
    assert server.ps()[model]["restarts"] == 0


def test_who_leaves_a_long_prefill_of_many_steps_costs_nobody_the_worker(server: Server) -> None:
    server.call("load", {"models": ["library"]})
    pid = pid_of(server, "library")
    with Request(server, "library", stream=True):
        server.wait_for(lambda models: models["library"]["in_flight"] == 1)
    until(lambda: server.ps()["library"]["in_flight"] == 0)
    assert pid_of(server, "library") == pid


def grandchildren(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def test_a_grandchild_that_holds_the_pipes_does_not_hold_up_a_stop(server: Server) -> None:
    assert_works(server, "parent")
    pid = pid_of(server, "parent")
    (grandchild,) = grandchildren(pid)
    (result,) = server.call("stop", {"models": ["parent"]}, timeout_s=10)["models"]
    assert result["stopped"]
    assert wait_gone([pid, grandchild], 5) == []


def test_a_grandchild_ends_with_a_worker_that_was_killed(server: Server) -> None:
    assert_works(server, "parent")
    pid = pid_of(server, "parent")
    (grandchild,) = grandchildren(pid)
    os.kill(pid, signal.SIGKILL)
    assert wait_gone([grandchild], 5) == []
    assert_works(server, "parent")


def test_a_worker_that_dies_during_its_drain_ends_the_stop_and_its_streams(server: Server) -> None:
    with Request(server, "victim", words=FOREVER, stream=True) as stream, ThreadPoolExecutor(1) as pool:
        stream.next_event()
        pid = pid_of(server, "victim")
        stopping = pool.submit(server.call, "stop", {"models": ["victim"]})
        server.wait_for(lambda models: models["victim"]["state"] == "stopping")
        os.kill(pid, signal.SIGKILL)
        assert stopping.result(timeout=10)["models"][0]["stopped"]
        assert stream.last_event()["error"]["code"] in ("worker_died", "model_stopped")
    assert_works(server, "victim")


def test_a_worker_that_is_stopped_by_a_signal_is_ended_by_the_ladder(server: Server) -> None:
    assert_works(server, "bystander")
    pid = pid_of(server, "bystander")
    os.kill(pid, signal.SIGSTOP)
    (result,) = server.call("stop", {"models": ["bystander"], "now": True})["models"]
    assert result["stopped"]
    assert not is_alive(pid)


def test_a_worker_that_hangs_in_a_step_is_ended_by_the_ladder(server: Server) -> None:
    with Request(server, "hung-step", words=FOREVER, stream=True) as stream:
        stream.next_event()
        pid = pid_of(server, "hung-step")
        (result,) = server.call("stop", {"models": ["hung-step"], "now": True})["models"]
        assert result["stopped"]
        assert not is_alive(pid)
        assert stream.last_event()["error"]["code"] == "model_stopped"


def test_a_load_without_progress_is_given_up(server: Server) -> None:
    with Request(server, "stalled") as request:
        error = request.error()
    assert request.status == 503
    assert "no progress" in error["message"]


@pytest.mark.parametrize("model", ["flood", "longline"])
def test_what_a_worker_prints_never_stops_it(server: Server, model: str) -> None:
    assert_works(server, model)
    logs = [path for path in (server.home / "logs").glob("*.log*") if path.stat().st_size >= 1_000_000]
    assert logs


def test_a_failed_model_leaves_no_process(server: Server) -> None:
    until(lambda: len(server.worker_pids()) == sum(1 for m in server.ps().values() if m["pid"]))
