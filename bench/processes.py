"""The programs under comparison as processes: started, ended with us, and what they said last."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

_EXCEPTION = re.compile(r"[\w.]+(Error|Exception): ")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: dict[str, str], output: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, in a session of its own; ended by SIGTERM, or by SIGKILL after 20 s."""
    with output.open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    watcher = end_with_us(process.pid)
    try:
        yield process
    finally:
        watcher.kill()
        watcher.communicate()
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def end_with_us(pid: int) -> subprocess.Popen[bytes]:
    """Ends the process if the bench is killed: the pipe closes then, and the shell stops reading.

    SIGCONT for it, for its workers, and for our own load clients: `bench.turns` may have frozen them.
    """
    thaw = f"pkill -CONT -P {pid}; kill -CONT {pid}; kill -CONT -{os.getpgrp()}"
    command = ["sh", "-c", f"read _; exec 2>&-; kill -TERM {pid}; {thaw}"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def last_line(output: Path) -> str:
    """What ended a program: the last exception, or what pip says after `ERROR:`, or the last it printed."""
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (exceptions or errors or lines or ["it said nothing"])[-1][:300]
