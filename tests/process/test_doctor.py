"""`mlxk doctor` on real remains: named, left alone without --fix, gone with it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.process.boxes import mlxk
from tests.process.client import Request
from tests.process.conftest import StartServer
from tests.process.watch import clean_up_after_kill, pid_of, run_dir
from tests.server import Server, add_fake_model, is_alive, wait_gone

pytestmark = pytest.mark.alone


def examine(server: Server, *arguments: str) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    """Exit code, findings, and all data."""
    done = server.cli("doctor", "--json", *arguments)
    envelope = json.loads(done.stdout)
    assert envelope["command"] == "doctor"
    assert envelope["status"] == ("success" if done.returncode == 0 else "error")
    data = envelope["data"]
    for finding in data["findings"]:
        assert set(finding) == {"check", "status", "message", "advice", "details"}
        if finding["status"] == "problem":
            assert finding["advice"], finding
    return done.returncode, data["findings"], data


def of(findings: list[dict[str, Any]], check: str) -> list[dict[str, Any]]:
    return [finding for finding in findings if finding["check"] == check]


@pytest.fixture
def served(tmp_path: Path, start: StartServer) -> Server:
    add_fake_model(tmp_path, "a")
    server = start("a", port="0")
    server.wait_for(lambda models: models.get("a", {}).get("state") == "ready")
    return server


@pytest.fixture
def orphan(served: Server) -> int:
    """A worker that could not notice the end of its front: a signal had stopped it."""
    worker = pid_of(served, "a")
    os.kill(worker, signal.SIGSTOP)
    served.signal(signal.SIGKILL)
    served.wait(5)
    return worker


def test_a_running_server_is_well_and_its_memory_is_told(served: Server) -> None:
    code, findings, data = examine(served)
    assert code == 0, findings
    assert data["summary"]["problems"] == 0
    (server,) = of(findings, "server")
    assert (server["status"], server["details"]["pid"]) == ("ok", served.pid)
    (process,) = of(findings, "memory")[0]["details"]["processes"]
    assert process["model"] == "a"
    assert process["pid"] == pid_of(served, "a")
    assert process["memory_bytes"] > 1_000_000


def test_a_spare_is_no_stray(tmp_path: Path, start: StartServer) -> None:
    server = start(spare="1", port="0")
    server.wait_for(lambda _: len(server.worker_pids()) == 1)
    _, findings, _ = examine(server)
    assert not [one for one in of(findings, "memory") if "no model" in one["message"]]
    (process,) = of(findings, "memory")[0]["details"]["processes"]
    assert process["spare"]


def test_an_orphan_is_named_and_left_alone_until_asked(served: Server, orphan: int) -> None:
    code, findings, _ = examine(served)
    assert code == 1
    (finding,) = [one for one in of(findings, "leftovers") if one["details"].get("pid") == orphan]
    assert finding["status"] == "problem"
    assert "mlxk doctor --fix" in finding["advice"]
    (files,) = [one for one in of(findings, "leftovers") if one["status"] == "note"]
    assert str(run_dir(served)) in files["details"]["files"]
    assert str(served.home / "instance.json") in files["details"]["files"]
    assert is_alive(orphan)
    assert run_dir(served).exists()

    code, findings, data = examine(served, "--fix")
    assert code == 0, findings
    assert f"ended the worker process {orphan}" in data["fixed"]
    assert f"removed {run_dir(served)}" in data["fixed"]
    assert f"removed {served.home / 'instance.json'}" in data["fixed"]
    assert wait_gone([orphan], 5) == []
    assert not run_dir(served).exists()
    assert not (served.home / "instance.json").exists()

    code, findings, data = examine(served, "--fix")
    assert (code, data["fixed"]) == (0, []), findings
    assert [one["status"] for one in of(findings, "leftovers")] == ["ok"]


def test_the_report_for_people_says_what_to_type(served: Server, orphan: int) -> None:
    report = served.cli("doctor")
    assert report.returncode == 1
    assert f"pid {orphan}" in report.stdout
    assert "-> mlxk doctor --fix" in report.stdout
    assert served.cli("doctor", "--fix").stdout.startswith(f"ended the worker process {orphan}")


def test_a_server_that_is_stopped_by_a_signal_is_named_and_not_waited_for(served: Server) -> None:
    served.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        code, findings, _ = examine(served, "--fix")
        took_s = time.monotonic() - began
    finally:
        served.signal(signal.SIGCONT)
    assert code == 1
    (finding,) = of(findings, "server")
    assert finding["status"] == "problem"
    assert f"kill -CONT {served.pid}" in finding["advice"]
    assert took_s < 10
    assert [one["status"] for one in of(findings, "leftovers")] == ["ok"]  # its worker is no orphan
    served.wait_for(lambda models: models["a"]["state"] == "ready")


def test_a_living_server_whose_socket_files_are_gone_keeps_its_workers(served: Server) -> None:
    """A cleaner of /tmp removes what is old; another server's sweep must not end what still works."""
    worker = pid_of(served, "a")
    (run_dir(served) / "s").unlink()
    (run_dir(served) / "c").unlink()
    _, findings, data = examine(served, "--fix")
    assert data["fixed"] == []
    assert is_alive(worker)
    (finding,) = of(findings, "server")
    assert finding["status"] == "problem"
    assert f"kill -9 {served.pid}" in finding["advice"]


def test_a_model_that_has_failed_is_named_with_its_error(tmp_path: Path, start: StartServer) -> None:
    add_fake_model(tmp_path, "broken", die_in_load=True)
    server = start(port="0")
    while (
        server.ps().get("broken", {}).get("state") != "failed"
    ):  # for good: BACKOFF is over in half a second
        with Request(server, "broken") as request:
            request.error()
    code, findings, _ = examine(server)
    assert code == 1
    (finding,) = [one for one in of(findings, "server") if one["status"] == "problem"]
    assert "dying in load" in finding["message"]
    assert "mlxk load broken" in finding["advice"]


def test_a_server_that_is_just_starting_is_no_problem(tmp_path: Path, start: StartServer) -> None:
    """It holds the lock, and has not yet said where it listens."""
    server = start(port="0")
    (tmp_path / "instance.json").unlink()
    code, findings, _ = examine(server)
    (finding,) = of(findings, "server")
    assert finding["status"] == "note"
    assert f"pid {server.pid}" in finding["message"]
    assert code == 0


def test_a_worker_that_ignores_everything_but_sigkill_is_ended(tmp_path: Path, start: StartServer) -> None:
    add_fake_model(tmp_path, "deaf", ignore_sigterm=True, deaf_to_shutdown=True)
    server = start("deaf", port="0")
    server.wait_for(lambda models: models.get("deaf", {}).get("state") == "ready")
    worker = pid_of(server, "deaf")
    os.kill(worker, signal.SIGSTOP)
    server.signal(signal.SIGKILL)
    server.wait(5)
    _, _, data = examine(server, "--fix")
    assert f"ended the worker process {worker}" in data["fixed"]
    assert wait_gone([worker], 5) == []


def test_what_another_servers_doctor_sees_of_this_one_is_nothing(served: Server, tmp_path: Path) -> None:
    """Another home, the same machine: a living server's worker and directory are not its business."""
    worker = pid_of(served, "a")
    env = {**served.env, "MLXK_HOME": str(tmp_path / "other")}
    done = mlxk("doctor", "--fix", "--json", env=env)
    data = json.loads(done.stdout)["data"]
    assert data["fixed"] == []
    assert str(worker) not in json.dumps(of(data["findings"], "leftovers"))
    assert is_alive(worker)
    assert not (tmp_path / "other").exists()


def test_the_next_server_removes_what_was_left(served: Server, orphan: int, start: StartServer) -> None:
    draft = served.home / f"instance.json.{served.pid}"
    draft.write_text("{")
    successor = start(port="0")
    assert wait_gone([orphan], 5) == []
    assert not run_dir(served).exists()
    assert not draft.exists()
    code, findings, _ = examine(successor)
    assert code == 0, findings
    clean_up_after_kill(served)
