"""One engine's part of the soak: a home, its present server, and the gate that all its threads pass."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from mlxk.supervisor.control_client import ControlError, ControlTimeoutError, ServerNotRunningError
from tests.process.watch import run_dir, workers_of
from tests.server import Server, wait_gone
from tests.soak.cast import Cast, Model
from tests.soak.disturbances import Disturbances
from tests.soak.ledger import Ledger

GATE_S = 130.0
"""How long the threads get to come to a rest: longer than any operation of theirs may take."""
END_S = 60.0
"""A server that was told to end and is still there then does not end."""
ORPHANS_S = 5.0
"""After a kill of the front. (`bench.lifecycle` measures it; this bound only holds on a loaded machine.)"""
BAD_LOG_LINE = re.compile(r"^Traceback \(most|^\S+ CRITICAL|never retrieved|never awaited", re.MULTILINE)
"""Not indented: what is, is quoted from a worker's log."""
AWAY_S = 0.3
"""Who finds no server looks again after so long."""
GONE = (ControlError, ControlTimeoutError, ServerNotRunningError, psutil.Error)


class Arena:
    """Made with its models in place; `start` before use."""

    def __init__(
        self,
        name: str,
        home: Path,
        cast: Cast,
        env: dict[str, str],
        *,
        max_models: int,
        seed: int,
        ledger: Ledger,
    ) -> None:
        self.name = name
        self.home = home
        self.cast = cast
        self.ledger = ledger
        self.disturbances = Disturbances()
        self.max_models = max_models
        """The highest number that any configuration of this soak allows."""
        self.has_spare = env.get("MLXK_SPARE", "1") != "0"
        self.drain_s = float(env["MLXK_DRAIN_TIMEOUT"].removesuffix("s"))
        self.stop_grace_s = float(env["MLXK_STOP_GRACE"].removesuffix("s"))
        self.configuration = threading.Lock()
        """Held by who writes config.toml, and by who starts a server that reads it."""
        self._env = env
        self._seed = seed
        self.life = 0
        """Counts the servers, from 1."""
        self._server: Server | None = None
        self.over = threading.Event()
        self._open = threading.Event()
        self._open.set()
        self._inside = 0
        self._moved = threading.Condition()

    def chance(self, who: str) -> random.Random:
        """The same operations in the same order for the same seed; their timing is the machine's."""
        return random.Random(f"{self._seed}/{self.name}/{who}")

    def fail(self, text: str) -> None:
        self.ledger.fail(self.name, f"life {self.life}: {text}")

    def record(self, operation: str, outcome: str, seconds: float) -> None:
        self.ledger.record(self.name, operation, outcome, seconds)
        if outcome in ("refused", "shutting_down", "NoSuchProcess", "ServerNotRunningError"):
            self.over.wait(AWAY_S)

    # ------------------------------------------------------------------ the gate

    def keep_going(self) -> bool:
        """Asked by each thread before each operation: waits while the gate is closed."""
        while not self.over.is_set():
            if self._open.wait(0.2):
                return True
        return False

    @contextmanager
    def operation(self) -> Iterator[None]:
        with self._moved:
            self._inside += 1
        try:
            yield
        finally:
            with self._moved:
                self._inside -= 1
                self._moved.notify_all()

    @contextmanager
    def quiet(self) -> Iterator[bool]:
        """Inside the block no operation runs; False if one did not end in time."""
        self._open.clear()
        try:
            with self._moved:
                yield self._moved.wait_for(lambda: self._inside == 0, GATE_S)
        finally:
            self._open.set()

    # ---------------------------------------------------------------- the server

    @property
    def server(self) -> Server:
        assert self._server is not None
        return self._server

    @property
    def url(self) -> str:
        return self.server.url

    def model(self, name: str) -> Model:
        return next(model for model in self.cast.models if model.name == name)

    def start(self) -> None:
        with self.configuration:
            self._server = Server(self.home, env=self._env)
            self.life += 1

    def cli(self, *arguments: str, unread: bool = False) -> subprocess.Popen[str]:
        """`mlxk ARGUMENTS` on this arena's server. `unread`: into a pipe that nobody empties, so that a
        reader of events or logs becomes a slow one."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "mlxk", *arguments],
            env=self.server.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if unread else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def pid_of(self, name: str) -> int | None:
        try:
            return self.server.ps().get(name, {}).get("pid")
        except GONE:
            return None

    def end(self, how: str) -> float:
        """End the server in that way and check that nothing is left; returns the seconds it took."""
        server = self.server
        workers = workers_of(server)
        began = time.monotonic()
        codes = self._ask_to_end(server, how)
        try:
            code = server.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.fail(f"the server (pid {server.pid}) had not ended {END_S:.0f} s after {how}")
            server.process.kill()
            code = server.process.wait()
        took_s = time.monotonic() - began
        if code not in codes:
            self.fail(f"exit code {code} after {how}, expected {codes}")
        if how == "kill -9":
            self._check_orphans(server, workers)
        else:
            self._check_end(server, how)
        self.keep_log(server)
        return took_s

    def _ask_to_end(self, server: Server, how: str) -> tuple[int, ...]:
        """Returns the exit codes that are right."""
        match how:
            case "kill -9":
                server.signal(signal.SIGKILL)
                return (-signal.SIGKILL,)
            case "SIGTERM":
                server.signal(signal.SIGTERM)
                return (0,)
            case "Ctrl-C":
                server.signal(signal.SIGINT)
                return (130,)
            case "two Ctrl-C":
                server.signal(signal.SIGINT)
                time.sleep(0.3)  # sooner it would be the same Ctrl-C once more
                server.signal(signal.SIGINT)
                return (130,)
            case "mlxk stop":
                server.call("stop", {})
                return (0,)
        raise ValueError(how)

    def _check_orphans(self, server: Server, workers: list[int]) -> None:
        alive = [pid for pid in wait_gone(workers, ORPHANS_S) if not _is_frozen(pid)]
        if alive:
            self.fail(f"orphans {ORPHANS_S:.0f} s after kill -9 of the front: {alive}")

    def _check_end(self, server: Server, how: str) -> None:
        if left := wait_gone(workers_of(server), 1.0):
            self.fail(f"workers left after {how}: {left}")
        if run_dir(server).exists():
            self.fail(f"the socket directory {run_dir(server)} is left after {how}")
        if (self.home / "instance.json").exists():
            self.fail(f"instance.json is left after {how}")

    def keep_log(self, server: Server) -> None:
        """The next server would overwrite it. And nothing in it may speak of a bug."""
        text = server.log()
        kept = self.home / f"serve-{self.life}.out"
        server.log_path.rename(kept)
        if found := BAD_LOG_LINE.search(text):
            self.fail(f"the server's log says {text[found.start() : found.start() + 3000]!r}: {kept}")

    def restart(self) -> float:
        """`mlxk restart`: another server in the same process; returns the seconds it took."""
        server = self.server
        workers, old_dir = workers_of(server), run_dir(server)
        began = time.monotonic()
        with self.configuration:
            done = server.cli("restart", "--json", timeout_s=END_S)
        took_s = time.monotonic() - began
        if done.returncode:
            self.fail(
                f"mlxk restart: exit code {done.returncode}: {done.stdout[-1000:]}{done.stderr[-1000:]}"
            )
            return took_s
        if left := wait_gone(workers, 1.0):
            self.fail(f"workers left after mlxk restart: {left}")
        if old_dir.exists():
            self.fail(f"the socket directory {old_dir} is left after mlxk restart")
        facts = json.loads((self.home / "instance.json").read_text(encoding="utf-8"))
        if facts["pid"] != server.pid:
            self.fail(f"mlxk restart left the process: pid {facts['pid']} instead of {server.pid}")
        server.url, server.control_path = facts["url"], facts["control"]
        self.life += 1
        return took_s

    def check_swept(self, before: list[int]) -> None:
        """A new server has started: what its killed predecessor left is gone."""
        if left := wait_gone(before, ORPHANS_S):
            self.fail(f"the new server did not sweep up {left}")

    def close(self) -> None:
        """Whatever happened, nothing of ours stays on the machine."""
        if self._server is not None and self._server.process.poll() is None:
            self._server.process.kill()
            self._server.process.wait()
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if "mlxk.workers" in command and any(os.environ["TMPDIR"] in part for part in command):
                process.kill()


def _is_frozen(pid: int) -> bool:
    """It cannot notice anything: the next server's sweep is for those."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False
