"""`restart MODEL`: a new process, and not one request that fails for it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxk.supervisor.control_client import ControlError
from tests.process.client import Request
from tests.process.conftest import StartServer
from tests.process.watch import pid_of, until
from tests.server import Server, add_fake_model, is_alive, standing

LONG = 150
"""Words of a stream that outlasts the load of a successor."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("home")
    add_fake_model(home, "steady", step_s=0.02, load_s=0.3)
    add_fake_model(home, "fickle", step_s=0.02)
    with standing(Server(home, env={"MLXK_ENGINE": "fake", "MLXK_STOP_GRACE": "1s"})) as running:
        yield running


@pytest.fixture(scope="module")
def cramped(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    """Room for one process of the model, not for two."""
    home: Path = tmp_path_factory.mktemp("cramped")
    add_fake_model(home, "steady", step_s=0.02)
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_CACHE": "1MB", "MLXK_MAX_MEMORY": "300MB"}
    with standing(Server(home, env=env)) as running:
        yield running


class Traffic:
    """Whole requests, one after the other, until it is told to end."""

    def __init__(self, server: Server, model: str) -> None:
        self.texts: list[str] = []
        self.statuses: list[int] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(server, model))
        self._thread.start()

    def _run(self, server: Server, model: str) -> None:
        while not self._end.is_set():
            with Request(server, model, words=2) as request:
                self.texts.append(str(request.json()))
                self.statuses.append(request.status)

    def end(self) -> set[int]:
        self._end.set()
        self._thread.join()
        return set(self.statuses)


def test_a_restart_under_traffic_fails_no_request_and_leaves_no_gap(server: Server) -> None:
    with Request(server, "steady", words=LONG, stream=True) as stream:
        stream.next_event()
        old = pid_of(server, "steady")
        traffic = Traffic(server, "steady")
        try:
            until(lambda: len(traffic.statuses) > 2)
            restart = server.cli("restart", "steady", "--json")  # checked against the schema
            assert restart.returncode == 0, restart.stderr
        finally:
            statuses = traffic.end()
        assert stream.last_event()["choices"][0]["finish_reason"] == "length"
    assert statuses == {200}, traffic.texts
    assert json.loads(restart.stdout)["data"]["models"][0]["seamless"] is True
    assert not is_alive(old)
    assert pid_of(server, "steady") != old
    assert server.ps()["steady"]["in_flight"] == 0


def test_restart_now_interrupts_what_the_old_process_still_does(server: Server) -> None:
    server.call("load", {"models": ["steady"]})
    with Request(server, "steady", words=100_000, stream=True) as stream:
        stream.next_event()
        (result,) = server.call("restart", {"models": ["steady"], "now": True})["models"]
        assert result["seamless"]
        assert stream.last_event()["error"]["code"] == "model_stopped"


def test_a_restart_that_cannot_load_leaves_the_old_process_at_work(server: Server) -> None:
    with Request(server, "fickle") as request:
        request.text()
    old = pid_of(server, "fickle")
    faults = server.home / "models" / "fickle" / "fake.json"
    whole = faults.read_text()
    faults.write_text('{"die_in_load": true}')
    with pytest.raises(ControlError, match="its old process goes on"):
        server.call("restart", {"models": ["fickle"]})
    faults.write_text(whole)
    assert pid_of(server, "fickle") == old
    with Request(server, "fickle", words=1) as request:
        assert request.text() == "w0"


def test_when_the_old_process_dies_during_a_restart_the_new_one_takes_over(server: Server) -> None:
    server.call("load", {"models": ["steady"]})
    old = pid_of(server, "steady")
    outcome: list[object] = []
    restart = threading.Thread(target=lambda: outcome.append(server.call("restart", {"models": ["steady"]})))
    restart.start()
    try:
        os.kill(old, signal.SIGKILL)
        with Request(server, "steady", words=1) as request:
            assert request.status in (200, 503)  # 503 if the death had not been noticed yet
    finally:
        restart.join()
    with Request(server, "steady", words=1) as request:
        assert request.text() == "w0"
    assert pid_of(server, "steady") != old


def test_without_room_for_two_requests_wait_and_none_fails(cramped: Server) -> None:
    with Request(cramped, "steady", words=30, stream=True) as stream:
        stream.next_event()
        old = pid_of(cramped, "steady")
        traffic = Traffic(cramped, "steady")
        try:
            until(lambda: len(traffic.statuses) > 2)
            restart = cramped.cli("restart", "steady")
            assert restart.returncode == 0, restart.stderr
        finally:
            statuses = traffic.end()
        assert stream.last_event()["choices"][0]["finish_reason"] == "length"
    assert "had to wait" in restart.stdout
    assert statuses == {200}, traffic.texts
    assert not is_alive(old)


# -------------------------------------------------------------------- the server itself


@pytest.fixture
def alone(tmp_path: Path, start: StartServer) -> Server:
    add_fake_model(tmp_path, "steady", step_s=0.02)
    return start(keep_alive="77s")


def test_the_server_begins_anew_with_its_own_environment_and_pid(alone: Server) -> None:
    alone.call("load", {"models": ["steady"]})
    old_worker, before = pid_of(alone, "steady"), read_recorded_in(alone)
    with Request(alone, "steady", words=30, stream=True) as stream:
        stream.next_event()
        alone.env["MLXK_KEEP_ALIVE"] = "1s"  # of who types the verb: none of the server's business
        result = alone.cli("restart", "--json")
        assert result.returncode == 0, result.stdout
        assert stream.last_event()["choices"][0]["finish_reason"] == "length"  # drained, not cut
    assert json.loads(result.stdout)["data"]["server"]["pid"] == alone.pid
    assert not is_alive(old_worker)
    assert not Path(before["control"]).parent.exists()
    after = read_recorded_in(alone)
    alone.control_path, alone.url = after["control"], after["url"]
    assert alone.ps() == {}
    with Request(alone, "steady", words=1) as request:
        assert request.text() == "w0"
    assert 60 < alone.ps()["steady"]["until"] <= 77
    alone.signal(signal.SIGINT)
    assert alone.wait() == 130
    assert not (alone.home / "instance.json").exists()
    assert not Path(after["control"]).parent.exists()


def test_a_wrong_configuration_refuses_the_restart_and_the_server_goes_on(alone: Server) -> None:
    (alone.home / "config.toml").write_text("[server]\nprot = 1\n")
    result = alone.cli("restart")
    assert result.returncode == 1
    assert "was not restarted" in result.stderr
    assert "port" in result.stderr
    alone.call("load", {"models": ["steady"]})


def test_ctrl_c_during_a_restart_ends_the_server_for_good(alone: Server) -> None:
    alone.call("load", {"models": ["steady"]})
    with Request(alone, "steady", words=100_000, stream=True) as stream:
        stream.next_event()
        alone.call("restart", {"models": []})
        until(lambda: "waiting up to" in alone.log())
        alone.signal(signal.SIGINT)
        assert alone.wait() == 130
        assert stream.last_event()["error"]["code"] == "shutting_down"
    assert alone.log().count("listening on") == 1
    assert "the server ends and begins anew: `mlxk restart`\n" in alone.log()
    assert "its end is hastened: SIGINT\n" in alone.log()


def read_recorded_in(server: Server) -> dict[str, str]:
    recorded = json.loads((server.home / "instance.json").read_text())
    assert isinstance(recorded, dict)
    return recorded
