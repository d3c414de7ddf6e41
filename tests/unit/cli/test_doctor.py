"""`mlxk doctor` in homes and caches that are broken on purpose. Processes: tests/process/test_doctor.py."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import mlxk
from mlxk.cli.checks import memory, places, versions
from mlxk.cli.checks.server import ServerView
from mlxk.config.instance import Instance, write_instance
from mlxk.supervisor.leftovers import WorkerProcess
from tests.models import add_to_hub
from tests.unit.cli.conftest import Result
from tests.unit.cli.control_stub import control_stub

Mlxk = Callable[..., Result]

pytestmark = pytest.mark.alone


@pytest.fixture(autouse=True)
def only_our_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other sessions on this machine have servers and remains of their own, and perhaps port 8000."""
    monkeypatch.setattr("mlxk.supervisor.leftovers.find_workers", lambda: iter(()))
    monkeypatch.setattr("mlxk.supervisor.leftovers.run_dir_bases", list)
    monkeypatch.setenv("MLXK_PORT", "0")


def examine(mlxk_here: Mlxk, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """Findings by check."""
    result = mlxk_here("doctor", "--json", *arguments)
    envelope = result.envelope
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in envelope["data"]["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    problems = [one for group in found.values() for one in group if one["status"] == "problem"]
    assert result.code == (1 if problems else 0)
    assert envelope["status"] == ("error" if problems else "success")
    assert (envelope["error"] or {}).get("type") == ("problems_found" if problems else None)
    assert envelope["data"]["summary"]["problems"] == len(problems)
    return found


def problems_of(found: dict[str, list[dict[str, Any]]], check: str) -> list[dict[str, Any]]:
    return [finding for finding in found[check] if finding["status"] == "problem"]


def test_a_fresh_install_is_all_well_and_nothing_is_made(mlxk_here: Mlxk, home: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = mlxk_here("doctor")
    assert result.code == 0, result
    marks = {line.split()[0] for line in result.out.splitlines()[:-1]}
    assert marks <= {"ok", "note"}, result.out  # a note: this machine may be short of memory right now
    found = examine(mlxk_here)
    well = [group[0]["check"] for group in found.values() if {one["status"] for one in group} == {"ok"}]
    assert set(well) >= set(found) - {"memory", "home"}
    assert sorted(tmp_path.rglob("*")) == before
    assert not home.exists()


def test_neither_mlx_nor_the_server_is_imported() -> None:
    code = (
        "import sys; from mlxk.cli.main import invoke; invoke(['doctor', '--json']); "
        "print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"mlx", "mlx_lm", "transformers", "numpy", "fastapi", "uvicorn", "huggingface_hub"}


# -------------------------------------------------------------------------- the server


def test_a_server_that_lives_and_does_not_answer_is_named(
    mlxk_here: Mlxk, running_instance: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxk.cli.checks.server.ANSWER_LIMIT_S", 0.3)
    with control_stub(lambda request: None, deaf=True) as stub:
        running_instance(control=stub.path)
        (finding,) = problems_of(examine(mlxk_here), "server")
    assert "does not answer" in finding["message"]
    assert f"kill -9 {os.getpid()}" in finding["advice"]


def test_a_server_of_another_version_is_to_be_restarted(
    mlxk_here: Mlxk, running_instance: Callable[..., Instance]
) -> None:
    with control_stub(lambda request: {"server": {"uptime_s": 5}, "models": []}) as stub:
        instance = running_instance(control=stub.path)
        write_instance(dataclasses.replace(instance, version="0.0.1"))
        (finding,) = problems_of(examine(mlxk_here), "server")
    assert finding["advice"] == "mlxk restart"
    assert finding["details"] == {"running": "0.0.1", "installed": mlxk.__version__}


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b'{"pid": 1}'])
def test_an_instance_file_that_says_nothing_is_stale(mlxk_here: Mlxk, home: Path, content: bytes) -> None:
    home.mkdir()
    (home / "instance.json").write_bytes(content)
    (finding,) = examine(mlxk_here)["leftovers"]
    assert finding["status"] == "note"
    assert finding["details"]["files"] == [str(home / "instance.json")]
    assert "cannot be understood" in finding["message"]
    assert (home / "instance.json").exists()
    (finding,) = examine(mlxk_here, "--fix")["leftovers"]
    assert finding["status"] == "ok"
    assert not (home / "instance.json").exists()


def test_an_instance_file_whose_pid_was_used_again_is_stale(
    mlxk_here: Mlxk, home: Path, running_instance: Callable[..., Instance]
) -> None:
    write_instance(dataclasses.replace(running_instance(), created_at=1.0))
    found = examine(mlxk_here)
    assert found["server"][0]["message"] == "not running"
    assert f"speaks of pid {os.getpid()}, which is no server" in found["leftovers"][0]["message"]


# -------------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"\xff\xfe\x00", "not UTF-8"), (b"[server]\nprot = 1\n", "did you mean port?")],
)
def test_a_wrong_configuration_is_named(mlxk_here: Mlxk, home: Path, content: bytes, word: str) -> None:
    home.mkdir()
    (home / "config.toml").write_bytes(content)
    (finding,) = problems_of(examine(mlxk_here), "configuration")
    assert str(home / "config.toml") in finding["message"]
    assert word in finding["message"]


def test_a_variable_with_a_typo_is_noticed(mlxk_here: Mlxk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXK_MAX_MEMMORY", "8GB")
    finding = examine(mlxk_here)["configuration"][1]
    assert finding["status"] == "note"
    assert finding["advice"] == "did you mean MLXK_MAX_MEMORY?"


def test_models_that_the_configuration_names_and_that_are_not_here(mlxk_here: Mlxk, home: Path) -> None:
    home.mkdir()
    preload, tables = (
        'preload = ["tiny", "nowhere"]',
        '[models.alias]\nid = "org/gone"\n[models.fine]\nid = "tiny"',
    )
    (home / "config.toml").write_text(f"[server]\n{preload}\n{tables}\n")
    findings = problems_of(examine(mlxk_here), "models")
    assert [finding["details"]["model"] for finding in findings] == ["nowhere", "alias"]


def test_a_key_file_that_is_not_there_is_named(
    mlxk_here: Mlxk, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXK_API_KEY_FILE", str(home / "keys"))
    (finding,) = problems_of(examine(mlxk_here), "configuration")
    assert str(home / "keys") in finding["message"]


# -------------------------------------------------------------------------- the cache


def test_broken_models_of_the_cache_are_named_with_the_reason(mlxk_here: Mlxk, tmp_path: Path) -> None:
    hub = tmp_path / "hf" / "hub"
    add_to_hub(hub, "org/whole")
    os.truncate(add_to_hub(hub, "org/cut"), 5000)
    add_to_hub(hub, "org/missing").unlink()
    found = examine(mlxk_here)
    notes = {one["details"]["model"]: one for one in found["models"] if one["status"] == "note"}
    assert sorted(notes) == ["org/cut", "org/missing"]
    assert "mlxk pull org/cut" in notes["org/cut"]["message"]
    assert "download did not finish" in notes["org/missing"]["message"]
    assert found["models"][0]["message"] == "2 can be served"
    assert found["cache"][0]["details"]["models"] == 3


def test_a_broken_model_that_is_preloaded_is_a_problem(
    mlxk_here: Mlxk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.truncate(add_to_hub(tmp_path / "hf" / "hub", "org/cut"), 5000)
    monkeypatch.setenv("MLXK_PRELOAD", "org/cut")
    found = examine(mlxk_here)
    (finding,) = problems_of(found, "models")
    assert finding["details"]["model"] == "org/cut"
    assert len(found["models"]) == 2  # told once


def test_unfinished_downloads_are_named_with_what_they_hold(mlxk_here: Mlxk, tmp_path: Path) -> None:
    blob = add_to_hub(tmp_path / "hf" / "hub", "org/whole").with_name("abc.incomplete")
    blob.write_bytes(bytes(5_000_000))
    os.utime(blob, (time.time() - 86400,) * 2)
    finding = examine(mlxk_here)["cache"][1]
    assert finding["status"] == "note"
    assert "5.0 MB" in finding["message"]
    assert finding["details"]["paths"] == [str(blob)]
    assert blob.exists()


def test_a_cache_that_cannot_be_read_is_a_problem(mlxk_here: Mlxk, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "hub").touch()
    (finding,) = problems_of(examine(mlxk_here), "cache")
    assert "Not a directory" in finding["message"]
    assert "HF_HOME" in finding["advice"]


# ------------------------------------------------------------- home, sockets, port, logs


def test_a_file_in_the_way_of_the_home_is_a_problem(
    mlxk_here: Mlxk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLXK_HOME", str(tmp_path / "file" / "home"))
    (finding,) = problems_of(examine(mlxk_here), "home")
    assert f"{tmp_path}/file is a file" in finding["message"]
    assert "MLXK_HOME" in finding["advice"]


def test_a_home_that_may_not_be_written_says_whose_it_is(
    mlxk_here: Mlxk, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    monkeypatch.setattr(places, "_owner", lambda path: 12345)
    monkeypatch.setattr(os, "access", lambda path, mode: path != home)  # as root may write anywhere
    (finding,) = problems_of(examine(mlxk_here), "home")
    assert f"{home} cannot be written ({home} belongs to user 12345)" in finding["message"]


@pytest.mark.parametrize(("free", "status"), [(1_000_000, "problem"), (500_000_000, "note"), (10**11, "ok")])
def test_a_disk_that_is_full_or_nearly(
    mlxk_here: Mlxk, monkeypatch: pytest.MonkeyPatch, free: int, status: str
) -> None:
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: usage)
    assert examine(mlxk_here)["home"][0]["status"] == status


def test_a_user_without_a_home_gets_one_answer(mlxk_here: Mlxk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Path:
        raise RuntimeError

    monkeypatch.delenv("MLXK_HOME")
    monkeypatch.setattr(Path, "home", refuse)
    found = examine(mlxk_here)
    assert list(found) == ["home"]
    assert "set MLXK_HOME" in found["home"][0]["message"]


def test_a_port_that_somebody_else_has_is_a_problem(mlxk_here: Mlxk, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("MLXK_PORT", str(port))
        (finding,) = problems_of(examine(mlxk_here), "port")
    assert str(port) in finding["message"]
    assert "--port N" in finding["advice"]
    assert examine(mlxk_here)["port"][0]["message"] == f"{port} on 127.0.0.1 is free"


def test_no_place_for_sockets_is_a_problem(mlxk_here: Mlxk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxk.supervisor.run_dir.run_dir_bases", lambda: [Path("/" + "d" * 200)])
    (finding,) = problems_of(examine(mlxk_here), "sockets")
    assert "TMPDIR" in finding["advice"]


def test_logs_are_measured(mlxk_here: Mlxk, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "w1.log").write_bytes(bytes(2000))
    assert "1 files, 2.0 KB" in examine(mlxk_here)["logs"][0]["message"]
    monkeypatch.setattr(places, "MANY_LOG_BYTES", 1000)
    assert examine(mlxk_here)["logs"][0]["status"] == "note"


# ------------------------------------------------------------------- versions and memory


def test_a_package_out_of_the_tested_range_is_a_problem(
    mlxk_here: Mlxk, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = versions._version_of
    wrong = {"mlx-lm": "0.99.0", "msgspec": None}
    monkeypatch.setattr(
        versions, "_version_of", lambda name: wrong[name] if name in wrong else installed(name)
    )
    findings = problems_of(examine(mlxk_here), "versions")
    assert [finding["details"]["package"] for finding in findings] == ["mlx-lm", "msgspec"]
    assert "mlx-lm 0.99.0 is installed" in findings[0]["message"]
    assert findings[0]["advice"].startswith('pip install "mlx-lm')


def test_little_free_memory_and_much_swap_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = type("Memory", (), {"total": 100, "available": 1, "wired": 60})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(psutil, "swap_memory", lambda: type("Swap", (), {"used": 50}))
    monkeypatch.setattr(memory, "_wired_bytes", lambda machine: machine.wired)
    findings = list(memory.check_memory(ServerView(), []))
    assert [finding.status for finding in findings] == ["note"] * 3
    assert "swap" in findings[1].message
    assert "wired" in findings[2].message


def test_a_process_that_holds_no_model_any_more_is_named(
    mlxk_here: Mlxk, running_instance: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child of the server (of this very process, as the instance file says) that `ps` knows nothing of."""
    script = "import time; print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", script, "mlxk.workers", "--connect", "ipc:///nowhere/s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        ours = WorkerProcess(psutil.Process(process.pid), Path("/nowhere/s"), orphaned=False)
        monkeypatch.setattr("mlxk.supervisor.leftovers.find_workers", lambda: iter([ours]))
        with control_stub(lambda request: {"server": {}, "models": []}) as stub:
            running_instance(control=stub.path)
            findings = examine(mlxk_here)["memory"]
        process.kill()
    (stray,) = [one for one in findings if one["details"].get("pid") == process.pid]
    assert stray["status"] == "note"
    assert f"kill -9 {process.pid}" in stray["advice"]
    assert stray["details"]["memory_bytes"] > 0


def test_control_characters_of_a_log_do_not_steer_the_terminal(
    mlxk_here: Mlxk, running_instance: Callable[..., Instance]
) -> None:
    models = [{"name": "a", "state": "failed", "last_error": "first\nsecond \x1b[2J"}]
    with control_stub(lambda request: {"server": {}, "models": models}) as stub:
        running_instance(control=stub.path)
        report = mlxk_here("doctor").out
        (finding,) = problems_of(examine(mlxk_here), "server")
    assert "\x1b[2J" not in report
    assert "second" in report
    assert json.dumps(finding)
