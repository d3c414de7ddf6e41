"""What the tests look at beside HTTP: a server's worker processes, its log, its files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from mlxk.supervisor.signals import ECHO_S
from tests.server import Server, is_alive


def run_dir(server: Server) -> Path:
    return Path(server.control_path).parent


def workers_of(server: Server) -> list[int]:
    """All living workers of that front, also after its death."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "mlxk.workers" in command and f"ipc://{run_dir(server)}/s" in command and is_alive(process.pid):
            found.append(process.pid)
    return found


def count_spawns(server: Server) -> int:
    return server.log().count("spawned w")


def pid_of(server: Server, model: str) -> int:
    pid = server.ps()[model]["pid"]
    assert isinstance(pid, int)
    return pid


@contextlib.contextmanager
def held(pid: int) -> Iterator[None]:
    """The process stands still, and so does its stream: what the block does comes in the middle of it. Not
    for longer than a pong may take (15 s)."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> float:
    """Wait for what has no event of its own; returns the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - began


def press_again(process: subprocess.Popen[Any]) -> None:
    """A second Ctrl-C after the server's first one, later than what counts as the same one (`ECHO_S`)."""

    def is_gone() -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ECHO_S)
            return True
        process.send_signal(signal.SIGINT)
        return False

    until(is_gone)


def assert_nothing_left(server: Server) -> None:
    """After the end of the front: no worker, no socket, no instance file."""
    assert workers_of(server) == []
    assert not run_dir(server).exists()
    assert not (server.home / "instance.json").exists()


def clean_up_after_kill(server: Server) -> None:
    """What only the next server's sweep would remove."""
    shutil.rmtree(run_dir(server), ignore_errors=True)
