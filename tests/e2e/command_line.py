"""`mlxk` as its users call it: a process, its output and its exit code."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.envelopes import check_output
from tests.leaks import standing_servers

TIMEOUT_S = 60


@dataclass(frozen=True)
class CommandLine:
    """`mlxk` with a home of its own."""

    home: Path
    engine: str = "mlx"
    """"fake" where no text matters: it starts in a fraction of the time."""

    @property
    def env(self) -> Mapping[str, str]:
        home = {"MLXK_HOME": str(self.home), "HF_HOME": str(self.home / "hf")}
        return {**os.environ, **home, "MLXK_ENGINE": self.engine}

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "mlxk", *arguments],
            env=self.env,
            stdin=more.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **more,
        )

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
        with self.start(*arguments, stdin=source) as process:
            try:
                out, err = process.communicate(stdin, timeout=TIMEOUT_S)
            except BaseException:
                process.kill()
                raise
        check_output(arguments, out)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def ok(self, *arguments: str, stdin: str | None = None) -> str:
        """stdout of a command that must succeed, and say nothing on stderr."""
        done = self.run(*arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def data(self, *arguments: str) -> dict[str, Any]:
        """`data` of the envelope of a command that must succeed."""
        envelope = json.loads(self.ok(*arguments, "--json"))
        assert set(envelope) == {"status", "command", "data", "error"}
        assert (envelope["status"], envelope["command"], envelope["error"]) == ("success", arguments[0], None)
        return dict(envelope["data"])

    def failure(self, code: int, *arguments: str) -> dict[str, Any]:
        """`error` of the envelope of a command that must fail with this exit code, also without --json."""
        plain = self.run(*arguments)
        assert (plain.returncode, plain.stdout) == (code, ""), plain
        assert "error: " in plain.stderr
        assert "Traceback" not in plain.stderr
        done = self.run(*arguments, "--json")
        assert done.returncode == code, done
        envelope = json.loads(done.stdout)
        assert (envelope["status"], envelope["data"]) == ("error", None)
        return dict(envelope["error"])


@contextlib.contextmanager
def detached(mlxk: CommandLine, *arguments: str) -> Iterator[dict[str, Any]]:
    """A server in the background: `{"pid", "url"}`."""
    ready = mlxk.data("serve", "--detach", "--port", "0", *arguments)
    standing_servers.add(ready["pid"])
    try:
        yield ready
    finally:
        done = mlxk.run("stop")
        standing_servers.discard(ready["pid"])
        assert done.returncode == 0, done
