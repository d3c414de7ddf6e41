"""Starting servers: ready, dead, stuck, unwilling to end. A small script stands for `python -P -m mlxk`."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mlxk.cli import server_process
from mlxk.cli.errors import CliError
from mlxk.cli.server_process import private_server, start_detached

INTERPRETER = sys.executable

PRELUDE = """
import json, os, signal, sys, time
assert sys.argv[1:5] == ["-P", "-m", "mlxk", "serve"], sys.argv
print("arguments", *sys.argv[5:], flush=True)
ready = int(sys.argv[sys.argv.index("--ready-fd") + 1])
open(os.environ["STUB_PID"], "w").write(str(os.getpid()))
def say_ready():
    os.write(ready, json.dumps({"pid": os.getpid(), "url": "http://127.0.0.1:7", "control": "/c"}).encode())
    time.sleep(0.05)  # the line may come in two pieces
    os.write(ready, b"\\n")
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[], int]]:
    """Puts a script in the server's place; returns a function that gives its pid."""
    pid_file = tmp_path / "pid"
    monkeypatch.setenv("STUB_PID", str(pid_file))

    def install(body: str) -> Callable[[], int]:
        script = tmp_path / "stub"
        script.write_text(f"#!{INTERPRETER}\n{PRELUDE}\n{body}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(script))
        return lambda: int(pid_file.read_text())

    return install


def is_gone(pid: int) -> bool:
    """Ended and reaped."""
    return not psutil.pid_exists(pid)


def test_a_detached_server_is_reported_when_it_is_ready(stand_in, home):
    pid = stand_in("say_ready(); time.sleep(60)")
    ready = start_detached(["--port=0", "--", "tiny"])
    try:
        assert (ready.pid, ready.url) == (pid(), "http://127.0.0.1:7")
        assert os.getsid(ready.pid) == ready.pid  # the terminal's Ctrl-C does not reach it
        log = home / "logs" / "server.out"
        assert log.read_text().endswith("--port=0 -- tiny\n")
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
    finally:
        os.kill(ready.pid, 9)
        os.waitpid(ready.pid, 0)


def test_a_detached_server_that_dies_shows_its_last_words_and_not_older_ones(stand_in, home):
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "server.out").write_text("yesterday\n")
    pid = stand_in("print('error: port 8000 is taken', file=sys.stderr); sys.exit(3)")
    with pytest.raises(CliError) as caught:
        start_detached([])
    assert caught.value.type == "start_failed"
    assert "exit code 3" in caught.value.message
    assert "server.out" in caught.value.message
    assert caught.value.details["log"][-1] == "error: port 8000 is taken"
    assert "yesterday" not in caught.value.message
    assert is_gone(pid())


def test_a_server_killed_at_its_start_is_named_by_its_signal(stand_in):
    stand_in("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(CliError, match="SIGKILL"):
        start_detached([])


def test_a_server_that_says_nonsense_is_ended(stand_in, monkeypatch):
    monkeypatch.setattr(server_process, "DEATH_GRACE_S", 0.2)
    pid = stand_in("os.write(ready, b'hello\\n'); time.sleep(60)")
    with pytest.raises(CliError, match="did not start"):
        start_detached([])
    assert is_gone(pid())


def test_a_server_that_never_gets_ready_is_ended_and_the_exit_code_is_5(stand_in, monkeypatch):
    monkeypatch.setattr(server_process, "DEATH_GRACE_S", 0.2)
    pid = stand_in(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('loading', flush=True); time.sleep(60)"
    )
    with pytest.raises(CliError) as caught:
        start_detached([], limit_s=1.0)
    assert caught.value.exit_code == 5
    assert caught.value.details["log"][-1] == "loading"
    assert is_gone(pid())


def test_a_private_server_ends_with_the_block(stand_in):
    pid = stand_in("say_ready(); sys.stdin.read(); time.sleep(0.3)")
    with private_server() as ready:
        assert psutil.pid_exists(ready.pid)
    assert is_gone(pid())


def test_a_private_server_ends_with_an_exception_in_the_block(stand_in):
    pid = stand_in("say_ready(); sys.stdin.read()")
    with pytest.raises(KeyboardInterrupt), private_server():
        raise KeyboardInterrupt
    assert is_gone(pid())


def test_a_private_server_is_on_loopback_whatever_the_configuration_says(stand_in, tmp_path):
    stand_in(
        "open(os.environ['STUB_PID'] + '-args', 'w').write(' '.join(sys.argv)); say_ready(); sys.stdin.read()"
    )
    with private_server():
        pass
    assert "--private --host 127.0.0.1 --port 0" in (tmp_path / "pid-args").read_text()


def test_a_private_server_that_does_not_end_is_killed(stand_in, monkeypatch):
    monkeypatch.setattr(server_process, "END_LIMIT_S", 0.2)
    monkeypatch.setattr(server_process, "DEATH_GRACE_S", 0.2)
    pid = stand_in("signal.signal(signal.SIGTERM, signal.SIG_IGN); say_ready(); time.sleep(60)")
    begin = time.monotonic()
    with private_server():
        pass
    assert time.monotonic() - begin < 10
    assert is_gone(pid())


def test_a_private_server_that_dies_at_its_start_says_why(stand_in):
    stand_in("sys.exit('no module named mlx')")
    with pytest.raises(CliError, match="no module named mlx"), private_server():
        pytest.fail("it is not ready")


def test_a_connection_lost_to_a_dead_private_server_is_explained(stand_in):
    pid = stand_in("say_ready(); sys.exit('Segmentation fault, or so')")
    with pytest.raises(CliError) as caught, private_server():
        raise CliError("connection_lost", "the connection broke")
    assert caught.value.type == "server_died"
    assert "Segmentation fault, or so" in caught.value.message
    assert is_gone(pid())


def test_a_connection_lost_to_a_living_private_server_stays_what_it_is(stand_in):
    stand_in("say_ready(); sys.stdin.read()")
    with pytest.raises(CliError, match="the connection broke"), private_server():
        raise CliError("connection_lost", "the connection broke")


def test_starting_servers_leaves_no_descriptor_open(stand_in):
    me = psutil.Process()
    stand_in("say_ready(); sys.stdin.read()")
    before = me.num_fds()
    with private_server():
        pass
    stand_in("sys.exit(1)")
    with pytest.raises(CliError):
        start_detached([])
    assert me.num_fds() == before
