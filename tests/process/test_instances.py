"""One server per home, a private one per parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.process.client import Request
from tests.process.conftest import StartServer
from tests.process.watch import run_dir, until
from tests.server import add_fake_model


def serve(server_env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "mlxk", "serve", "--port", "0", *arguments]
    return subprocess.run(command, env=server_env, capture_output=True, text=True, timeout=20, check=False)


def test_a_second_server_is_refused_with_the_first_ones_address(start: StartServer) -> None:
    server = start()
    result = serve(server.env)
    assert result.returncode != 0
    assert server.url in result.stderr
    assert str(server.pid) in result.stderr
    assert server.call("ping")["ready"]


def test_the_lock_refuses_also_when_the_instance_file_is_lost(start: StartServer) -> None:
    server = start()
    (server.home / "instance.json").unlink()
    result = serve(server.env)
    assert result.returncode == 1
    assert "running already" in result.stderr
    assert run_dir(server).exists()


def test_an_instance_file_of_a_dead_server_is_no_obstacle(tmp_path: Path, start: StartServer) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    stale = {"pid": dead.pid, "created_at": 1.0, "control": "/nowhere", "url": "http://x", "version": "0"}
    (tmp_path / "instance.json").write_text(json.dumps({**stale, "argv": []}))
    server = start()
    assert json.loads((tmp_path / "instance.json").read_text())["pid"] == server.pid


def test_a_pid_that_was_used_again_is_not_taken_for_the_server(tmp_path: Path, start: StartServer) -> None:
    stale = {"pid": os.getpid(), "created_at": 1.0, "control": "/nowhere", "url": "http://x", "version": "0"}
    (tmp_path / "instance.json").write_text(json.dumps({**stale, "argv": []}))
    start()


def test_servers_of_different_homes_live_side_by_side(tmp_path: Path, start: StartServer) -> None:
    add_fake_model(tmp_path, "a")
    add_fake_model(tmp_path / "other", "a")
    first = start()
    with Request(first, "a") as request:
        request.text()
    worker = first.ps()["a"]["pid"]
    env = {**first.env, "MLXK_HOME": str(tmp_path / "other")}
    process, facts = start_private(env)
    try:  # its sweep, and its start, touch nothing of the first
        assert facts["url"] != first.url
        assert first.ps()["a"]["pid"] == worker
    finally:
        end_private(process)


def start_private(env: dict[str, str]) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    ready_read, ready_write = os.pipe()
    command = [sys.executable, "-P", "-m", "mlxk", "serve", "--private", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--ready-fd", str(ready_write)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(ready_write,),
    )
    os.close(ready_write)
    with os.fdopen(ready_read) as ready:
        return process, json.loads(ready.readline())


def end_private(process: subprocess.Popen[bytes]) -> int:
    assert process.stdin is not None
    process.stdin.close()
    return process.wait(10)


def test_a_private_server_ends_with_its_parent_and_leaves_nothing(tmp_path: Path) -> None:
    add_fake_model(tmp_path, "a")
    env = {**os.environ, "MLXK_HOME": str(tmp_path), "MLXK_ENGINE": "fake"}
    process, facts = start_private(env)
    body = json.dumps({"model": "a", "prompt": "go", "max_tokens": 2}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{facts['url']}/v1/completions", body, headers)
    with urllib.request.urlopen(request, timeout=20) as response:
        assert json.load(response)["choices"][0]["text"] == "w0 w1"
    assert not (tmp_path / "instance.json").exists()
    assert end_private(process) == 0
    until(lambda: not Path(facts["control"]).parent.exists())
    assert not (tmp_path / "instance.json").exists()
