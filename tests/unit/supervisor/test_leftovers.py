"""What a killed front left behind is ended; what belongs to a living one is not touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxk.supervisor import leftovers
from mlxk.supervisor.leftovers import end_processes, find_leftovers, find_workers, sweep_leftovers
from mlxk.supervisor.run_dir import make_run_dir
from tests.server import is_alive, wait_gone

pytestmark = pytest.mark.alone


@pytest.fixture(autouse=True)
def only_our_base(
    socket_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The sweep looks at a directory of this test only: not at servers of other sessions on this machine."""
    tmp_path_factory.getbasetemp()  # made now, or it would be made in what goes with this test
    base = Path(tempfile.mkdtemp(prefix="b", dir=socket_root))
    monkeypatch.setenv("TMPDIR", str(base))
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    monkeypatch.setattr(leftovers, "run_dir_bases", lambda: [base])
    yield base
    shutil.rmtree(base)


@contextlib.contextmanager
def worker_of(directory: Path) -> Iterator[int]:
    """A process that looks like a worker of the front with that run directory, and does nothing."""
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", "mlxk.workers"]
    process = subprocess.Popen([*command, "--connect", f"ipc://{directory}/s"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def front_in(directory: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "s"))
        listener.listen(1)
        yield


def make_dead_dir() -> Path:
    """The run directory of a front that was killed: its socket file is still there."""
    directory = make_run_dir()
    with front_in(directory):
        pass
    return directory


def test_a_worker_whose_front_is_gone_is_ended_and_its_directory_removed() -> None:
    directory = make_dead_dir()
    with worker_of(directory) as pid:
        assert sweep_leftovers() >= 1
        assert wait_gone([pid], 5) == []
    assert not directory.exists()


def test_a_worker_whose_directory_is_gone_too_is_ended() -> None:
    directory = make_run_dir()
    directory.rmdir()
    with worker_of(directory) as pid:
        sweep_leftovers()
        assert wait_gone([pid], 5) == []


def test_workers_and_directory_of_a_living_front_stay() -> None:
    directory = make_run_dir()
    with front_in(directory), worker_of(directory) as pid:
        sweep_leftovers()
        assert is_alive(pid)
        assert directory.exists()


def test_a_dead_directory_without_workers_is_removed() -> None:
    directory = make_dead_dir()
    sweep_leftovers()
    assert not directory.exists()


def test_the_directory_of_a_front_that_is_just_starting_stays() -> None:
    directory = make_run_dir()
    sweep_leftovers()
    assert directory.exists()
    directory.rmdir()


def test_a_process_that_only_mentions_us_is_left_alone() -> None:
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", "mlxk.workers"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        sweep_leftovers()
        assert process.poll() is None
        process.kill()


def test_a_worker_whose_front_lives_but_has_lost_its_socket_stays() -> None:
    """A cleaner of /tmp removes files that nobody has touched for days, and a server runs for weeks."""
    directory = make_run_dir()
    directory.rmdir()
    front = f"""
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "mlxk.workers",
                           "--connect", "ipc://{directory}/s"])
print(worker.pid, flush=True)
sys.stdin.read()
worker.kill()
worker.wait()
"""
    command = [sys.executable, "-c", front, "mlxk", "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        assert worker not in [one.pid for one in find_leftovers().orphans]
        assert sweep_leftovers() == 0
        assert is_alive(worker)
        process.communicate()


def test_an_orphan_that_a_signal_has_stopped_is_woken_and_ended() -> None:
    directory = make_dead_dir()
    with worker_of(directory) as pid:
        os.kill(pid, signal.SIGSTOP)
        sweep_leftovers()
        assert wait_gone([pid], 5) == []


def test_a_deaf_orphan_is_killed_with_what_it_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "END_GRACE_S", 0.2)
    directory = make_dead_dir()
    script = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; print(flush=True); time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", script, "mlxk.workers", "--connect", f"ipc://{directory}/s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        lines = process.stdout.readline(), process.stdout.readline()
        child = int(b"".join(lines))  # one is the child's own, and empty
        assert process.pid in [one.pid for one in find_leftovers().orphans]
        sweep_leftovers()
        assert process.wait(5) == -signal.SIGKILL
        assert wait_gone([child], 5) == []


def test_a_pid_that_was_used_again_is_not_signalled() -> None:
    """psutil knows the process by its create time: what is found is ended, or nothing is."""
    directory = make_dead_dir()
    with worker_of(directory) as pid:
        (orphan,) = [one for one in find_leftovers().orphans if one.pid == pid]
        orphan.process._create_time = 1.0
        orphan.process._ident = (pid, 1.0)
        end_processes([orphan.process])
        assert is_alive(pid)
    shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_users_worker_stays() -> None:
    directory = make_dead_dir()
    command = ["/bin/sh", "-c", "echo; read line", "mlxk.workers", "--connect", f"ipc://{directory}/s"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=12345) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.pid not in [one.pid for one in find_workers()]
        process.communicate()
    shutil.rmtree(directory)


def test_an_empty_directory_goes_when_it_is_old_and_others_never_do(only_our_base: Path) -> None:
    young, old = make_run_dir(), make_run_dir()
    notes, somebody = only_our_base / "mlxk-notes", only_our_base / "mlxk-12345678"
    notes.mkdir()
    somebody.mkdir()
    (somebody / "diary.txt").touch()
    link = only_our_base / "mlxk-abcdefgh"
    link.symlink_to(notes)
    for path in (old, notes, somebody):
        os.utime(path, (1.0, 1.0))
    sweep_leftovers()
    assert sorted(only_our_base.iterdir()) == sorted([young, notes, somebody, link])


def test_drafts_of_dead_writers_go_and_other_files_of_the_home_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXK_HOME", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", "pass"]) as dead:
        dead.wait()
    for name in (f"instance.json.{dead.pid}", f"instance.json.{os.getpid()}", "instance.json.bak", "lock"):
        (tmp_path / name).touch()
    sweep_leftovers()
    kept = {"instance.json.bak", "lock", f"instance.json.{os.getpid()}"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_looking_changes_nothing() -> None:
    directory = make_dead_dir()
    with worker_of(directory) as pid:
        found = find_leftovers()
        assert pid in [one.pid for one in found.orphans]
        assert directory in found.directories
        assert is_alive(pid)
        assert directory.exists()
    shutil.rmtree(directory)
