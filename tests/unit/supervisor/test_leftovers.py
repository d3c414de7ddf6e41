"""What a killed front left behind is ended; what belongs to a living one is not touched."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxk.supervisor import leftovers
from mlxk.supervisor.leftovers import sweep_leftovers
from mlxk.supervisor.run_dir import make_run_dir
from tests.server import is_alive, wait_gone


@pytest.fixture(autouse=True)
def only_our_base(socket_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The sweep looks at a directory of this test only: not at servers of other sessions on this machine."""
    base = Path(tempfile.mkdtemp(prefix="b", dir=socket_root))
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
