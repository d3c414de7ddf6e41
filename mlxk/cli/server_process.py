"""Starting `mlxk serve` as a process of its own: in the background, or private to one `mlxk run`.

Both learn through a pipe that the server is ready: it writes one JSON line; end of file without one means
that it died. A private server also holds the read end of a pipe as its stdin: when that ends (we are
done, or we are gone, however that came), it ends itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mlxk.cli.errors import CliError

READY_LIMIT_S = 120.0
"""A server is ready in about a second. Beyond this it is stuck."""
END_LIMIT_S = 30.0
"""How long a private server may take to end its worker before it is killed."""
DEATH_GRACE_S = 5.0
"""Between a SIGTERM and a SIGKILL; also for a process that closed its ready pipe to be gone."""
TAIL_LINES = 20
TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Ready:
    """What a server says of itself when it takes work."""

    pid: int
    url: str
    control: str = ""
    """Path of its control socket."""


def start_detached(arguments: Sequence[str], *, cwd: str = "", limit_s: float = READY_LIMIT_S) -> Ready:
    """Start `mlxk serve ARGUMENTS` in the background, in `cwd` or here, and wait until it is ready.

    Raises CliError: `start_failed` with the log's tail, or `timed_out` (the process has been killed).
    """
    from mlxk.config.log_files import server_output
    from mlxk.config.paths import log_dir

    path = server_output(log_dir())  # what it prints itself; it logs to a file that rotates
    with _open_log(path) as log:
        words = ["--background", *arguments]
        process, ready_fd = _spawn(words, stdin=subprocess.DEVNULL, output=log, cwd=cwd)
        try:
            ready = _await_ready(process, ready_fd, log, 0, limit_s=limit_s, where=path)
        except BaseException:  # also Ctrl-C: who gives up waiting does not want the server
            _end(process)
            raise
        finally:
            os.close(ready_fd)
    process.returncode = 0  # it outlives us: keeps Popen from complaining about that
    return ready


def _open_log(path: Path) -> IO[bytes]:
    """A new one; the one of the start before is kept."""
    from mlxk.config.log_files import rotate

    try:
        with contextlib.suppress(OSError):
            rotate(path, 1)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "rb")
    except OSError as error:
        raise CliError(
            "start_failed",
            f"the server did not start: its log {path} cannot be written ({error.strerror}). Free some space "
            "on its disk, or set MLXK_HOME to a directory that can be written.",
            {"log": [], "exit_code": None},
        ) from error


@contextlib.contextmanager
def private_server(*, limit_s: float = READY_LIMIT_S) -> Iterator[Ready]:
    """A server for this process alone, on a free loopback port. When the block ends, so does the server,
    and only then this returns; a Ctrl-C while waiting for that kills it."""
    with tempfile.TemporaryFile() as log:
        arguments = ["--private", "--host", "127.0.0.1", "--port", "0"]
        process, ready_fd = _spawn(arguments, stdin=subprocess.PIPE, output=log)
        ready = None
        try:
            try:
                ready = _await_ready(process, ready_fd, log, 0, limit_s=limit_s, where=None)
            finally:
                os.close(ready_fd)
            yield ready
        except CliError as error:
            if error.type in ("connection_lost", "server_not_running"):
                _explain_death(process, log, error)
            raise
        finally:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(timeout=END_LIMIT_S)
            except subprocess.TimeoutExpired:
                _end(process)
            except KeyboardInterrupt:
                _kill(process)  # its workers notice, and end too
                raise
            finally:
                if ready is not None:
                    _remove_sockets(ready)


def _remove_sockets(ready: Ready) -> None:
    """A server that was killed left their directory."""
    folder = Path(ready.control).parent
    if ready.control and folder.name.startswith("mlxk-"):
        shutil.rmtree(folder, ignore_errors=True)


def _spawn(
    arguments: Sequence[str], *, stdin: int, output: IO[bytes], cwd: str = ""
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server in a session of its own, so that the terminal's Ctrl-C reaches only us.
    Returns it and the read end of its ready pipe."""
    ready_fd, child_fd = os.pipe()
    command = [sys.executable, "-P", "-m", "mlxk", "serve", "--ready-fd", str(child_fd), *arguments]
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd if os.path.isdir(cwd) else None,
            stdin=stdin,
            stdout=output,
            stderr=output,
            pass_fds=(child_fd,),
            start_new_session=True,
        )
    except BaseException:
        os.close(ready_fd)
        raise
    finally:
        os.close(child_fd)
    return process, ready_fd


def _await_ready(
    process: subprocess.Popen[bytes],
    ready_fd: int,
    log: IO[bytes],
    log_begin: int,
    *,
    limit_s: float,
    where: Path | None,
) -> Ready:
    line = _read_line(ready_fd, deadline=time.monotonic() + limit_s)
    if line is None:
        details = {"log": _tail(log, log_begin)}
        raise CliError("timed_out", f"the server was not ready after {limit_s:g} s and was ended", details)
    reason = ""
    try:
        fields = json.loads(line)
        reason = str(fields.get("error", ""))
        return Ready(pid=int(fields["pid"]), url=str(fields["url"]), control=str(fields.get("control", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=DEATH_GRACE_S)
    tail = _tail(log, log_begin)
    message = f"the server did not start: {_why(reason, tail, process.returncode, where)}"
    raise CliError("start_failed", message, {"log": tail, "exit_code": process.returncode})


def _why(reason: str, tail: list[str], returncode: int | None, where: Path | None) -> str:
    """The end of its log; or what it said through its pipe, where a full disk has swallowed that."""
    if reason and not any(reason in line for line in tail):
        return reason
    last_words = "\n".join(["", *tail]) if tail else " and said nothing"
    return f"{_ending(returncode)}{f' (log: {where})' if where else ''}{last_words}"


def _explain_death(process: subprocess.Popen[bytes], log: IO[bytes], error: CliError) -> None:
    """If a lost connection is a dead private server: raise CliError with its last words."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1.0)
        tail = _tail(log, 0)
        message = "\n".join([f"the private server died: {_ending(process.returncode)}", *tail])
        raise CliError("server_died", message, {"log": tail}) from error


def _read_line(descriptor: int, *, deadline: float) -> bytes | None:
    """What came up to the first line end or the end of file; None if neither came in time."""
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=max(0.0, deadline - time.monotonic())):
                if time.monotonic() >= deadline:
                    return None
                continue
            piece = os.read(descriptor, 4096)
            received += piece
            if not piece or b"\n" in piece:
                return received.partition(b"\n")[0]


def _tail(log: IO[bytes], begin: int) -> list[str]:
    """The last lines that were written after `begin`."""
    end = log.seek(0, os.SEEK_END)
    log.seek(max(begin, end - TAIL_BYTES))
    return log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]


def _ending(returncode: int | None) -> str:
    if returncode is None:
        return "it closed its ready pipe without a word"
    if returncode < 0:
        return f"it was ended by {signal.Signals(-returncode).name}"
    return f"it ended with exit code {returncode}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, a grace, SIGKILL; returns when it has been reaped."""
    process.terminate()
    try:
        process.wait(timeout=DEATH_GRACE_S)
    except subprocess.TimeoutExpired:
        _kill(process)
    except KeyboardInterrupt:
        _kill(process)
        raise


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
