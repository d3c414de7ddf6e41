"""A real `mlxk serve` in a real process, for the tests."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from mlxk.store.builtin import builtin_path
from mlxk.supervisor.control_client import ControlClient
from tests.envelopes import check_output
from tests.leaks import standing_servers

START_TIMEOUT_S = 60.0


class Server:
    """One running server. `home` is its MLXK_HOME."""

    def __init__(
        self,
        home: Path,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "mlxk"),
    ) -> None:
        self.home = home
        self.env = {
            **os.environ,
            "MLXK_HOME": str(home),
            "HF_HOME": str(home / "hf"),
            **(env or {}),
        }
        self.log_path = home / "serve.out"
        home.mkdir(parents=True, exist_ok=True)
        ready_read, ready_write = os.pipe()
        os.set_inheritable(ready_write, True)
        command = [sys.executable, "-P", *program, "serve", "--port", "0", "--ready-fd", str(ready_write)]
        with self.log_path.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *arguments],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(ready_write,),
                start_new_session=True,
            )
        os.close(ready_write)
        try:
            facts = json.loads(self._read_ready(ready_read))
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            os.close(ready_read)
        self.url: str = facts["url"]
        self.pid: int = facts["pid"]
        self.control_path: str = facts["control"]

    def _read_ready(self, descriptor: int) -> bytes:
        data = b""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(descriptor, 4096) if ready else b""
            if not part:
                raise AssertionError(f"the server did not start:\n{self.log()}")
            data += part
        return data

    # ------------------------------------------------------------------ questions

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def call(self, verb: str, args: dict[str, Any] | None = None, timeout_s: float = 60.0) -> dict[str, Any]:
        """A verb of the control socket."""
        with self.control() as client:
            return client.call(verb, args or {}, timeout_s=timeout_s)

    def control(self) -> ControlClient:
        """A connection for several verbs."""
        return ControlClient(self.control_path, self.pid, psutil.Process(self.pid).create_time())

    def ps(self) -> dict[str, dict[str, Any]]:
        """The pool's models by name."""
        return {model["name"]: model for model in self.call("ps")["models"]}

    def worker_pids(self) -> list[int]:
        """All living worker processes, the spare included."""
        found = []
        for child in psutil.Process(self.pid).children():
            try:
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child.pid)
            except psutil.NoSuchProcess:
                continue
        return found

    def wait_for(self, condition: Any, timeout_s: float = 60.0) -> Any:
        """Poll `condition(self.ps())` until it is true: counters have no event of their own."""
        deadline = time.monotonic() + timeout_s
        while True:
            value = condition(self.ps())
            if value:
                return value
            assert time.monotonic() < deadline, f"not within {timeout_s} s; ps: {self.ps()}\n{self.log()}"
            time.sleep(0.02)

    # --------------------------------------------------------------------- the end

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 30.0) -> int:
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """End it, if a test has not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the server did not end:\n{self.log()}") from None

    def cli(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """`mlxk ARGUMENTS` with this server's home."""
        command = [sys.executable, "-P", "-m", "mlxk", *arguments]
        done = subprocess.run(
            command,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        check_output(arguments, done.stdout)
        return done


@contextmanager
def standing(server: Server) -> Iterator[Server]:
    """A server that outlives single tests: the leak check lets its processes come and go."""
    standing_servers.add(server.pid)
    try:
        yield server
    finally:
        server.close()
        standing_servers.discard(server.pid)


def add_tiny_copy(home: Path, name: str) -> Path:
    """A copy of the built-in model under another name."""
    target = home / "models" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(builtin_path(), target)
    return target


def add_fake_model(home: Path, name: str, **faults: Any) -> Path:
    """A model for the fake engine, with its faults. The weights are `tiny`'s: it must be healthy."""
    target = add_tiny_copy(home, name)
    (target / "fake.json").write_text(json.dumps(faults), encoding="utf-8")
    return target


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_gone(pids: Sequence[int], timeout_s: float) -> list[int]:
    """The pids that still live after `timeout_s`. A zombie is gone: its init may be slow."""
    deadline = time.monotonic() + timeout_s
    while (alive := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return alive
