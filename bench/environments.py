"""The virtual environments that the rivals live in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.processes import last_line


def make_environment(folder: Path, requirements: Sequence[str], size: str) -> None:
    """A virtual environment; whole once its mark is there. Two benches at once make one. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another bench that installs {folder.name}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        mark = folder / ".installed"
        wanted = " ".join(requirements)
        if mark.exists() and mark.read_text() == wanted and (folder / "bin" / "python").exists():
            return
        told = f"{size}, minutes" if size else "minutes"
        print(f"installing {wanted} into {folder} ({told} the first time)", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        output = folder.parent / f"{folder.name}.log"
        python = str(folder / "bin" / "python")
        try:
            (folder / "tmp").mkdir(parents=True)  # pip's own, so that none of it is left in /tmp
            _install(output, lock.fileno(), folder, [sys.executable, "-m", "venv", str(folder)])
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _install(output, lock.fileno(), folder, [*pip, *requirements])
            shutil.rmtree(folder / "tmp")
            mark.write_text(wanted)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if not isinstance(error, OSError):  # interrupted
                output.unlink(missing_ok=True)
            raise
        output.unlink()


def _install(output: Path, lock: int, folder: Path, command: Sequence[str]) -> None:
    """Holds the lock even if the bench is killed. Raises OSError."""
    with output.open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
        )
        try:
            code = process.wait()
        except BaseException:
            for one in _below(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.kill()
            process.wait()
            raise
    if code:
        raise OSError(f"{command[2]} ended with {code}: {last_line(output)} (all it said: {output})")


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:  # it has ended
        return []
