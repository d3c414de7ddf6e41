"""A command line under test: in this process where its verdict is enough, in one of its own where signals,
pipes or imports matter."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import mlxk
from mlxk.cli.main import invoke
from mlxk.config.instance import Instance, write_instance
from tests.envelopes import check_output

PACKAGE_PARENT = str(Path(mlxk.__file__).parents[1])


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def envelope(self) -> dict[str, Any]:
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        envelope = json.loads(lines[0])
        assert list(envelope) == ["status", "command", "data", "error"]
        return envelope

    @property
    def error(self) -> dict[str, Any]:
        assert self.envelope["status"] == "error"
        assert self.envelope["data"] is None
        return self.envelope["error"]

    @property
    def data(self) -> dict[str, Any]:
        assert self.envelope["status"] == "success", self.out
        assert self.envelope["error"] is None
        return self.envelope["data"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a model cache of the test's own; no setting of the user's shows through."""
    for name in list(os.environ):
        if name.startswith(("MLXK_", "HF_")):
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("MLXK_HOME", str(folder))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    # A child is started with -P: it must find the package that is under test.
    monkeypatch.setenv("PYTHONPATH", PACKAGE_PARENT)
    return folder


class Terminal(io.TextIOWrapper):
    """A standard input that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def mlxk_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`mlxk_here("ps", "--json", stdin=b"...")`: in this process. No stdin: a terminal."""

    def run(*arguments: str, stdin: bytes | None = None) -> Result:
        kind = Terminal if stdin is None else io.TextIOWrapper
        monkeypatch.setattr(sys, "stdin", kind(io.BytesIO(stdin or b""), encoding="utf-8"))
        capsys.readouterr()
        code = invoke(arguments)
        captured = capsys.readouterr()
        check_output(arguments, captured.out)
        return Result(int(code), captured.out, captured.err)

    return run


@pytest.fixture
def mlxk_process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`mlxk_process("run", "tiny")`: `python -m mlxk` with pipes. Ended with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "mlxk", *arguments]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
        process.wait()


@pytest.fixture
def running_instance() -> Callable[..., Instance]:
    """Writes an instance file that says: a server runs, as this pid (this very process by default)."""

    def write(
        *, url: str = "http://127.0.0.1:9", control: str = "/nowhere", pid: int | None = None
    ) -> Instance:
        pid = pid or os.getpid()
        argv = ("/usr/bin/mlxk", "serve", "--port=8123", "--ready-fd", "7", "--detach", "--", "tiny")
        instance = Instance(pid, psutil.Process(pid).create_time(), control, url, "0.1.0", argv)
        write_instance(instance)
        return instance

    return write
