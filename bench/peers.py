"""The peers under comparison: made, started on a free port, waited for, ended.

Each rival lives in a virtual environment of its own below `bench_home()`, with pinned versions; the limit is
no server at all (`bench.limit`). All run with their defaults; what differs is named in `settings`.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench import client
from bench.limit import Limit
from bench.models import bench_home

START_TIMEOUT_S = 120.0
MLX = "mlx[cpu]" if sys.platform == "linux" else "mlx"


@dataclass
class Served:
    """A peer that runs and answers."""

    url: str
    """Empty for the limit."""
    names: dict[Path, str]
    """What a request calls each folder's model."""
    pid: int
    """Of the process that answers HTTP (mlxk: the front); of the limit's process."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields that this peer's bodies need in order to ask for the same as the others' do."""
    limit: Limit | None = None

    def body(self, folder: Path, body: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.names[folder], **self.extra, **body}

    def flow(self, folder: Path, bodies: Sequence[dict[str, Any]], streams: int) -> client.Flow:
        """Keeps `streams` chat requests running until all are answered. The same call for every peer.

        `bodies` as for /v1/chat/completions, without `model` and `stream`.
        """
        if self.limit:
            return self.limit.flow(folder, bodies, streams)
        asked = [self.body(folder, body) for body in bodies]
        return client.call(client.flow, self.url, bodies=asked, streams=streams)


class CannotRun(Exception):
    """A peer that cannot be installed, or that ended or kept silent and never answered."""


class Peer:
    """A program that serves models. `cannot`: scene's name → why not; the table prints it."""

    name = ""
    requirements: tuple[str, ...] = ()
    size = ""
    """Of its environment, where that is worth a warning."""
    settings = "defaults"
    serves_http = True

    def __init__(self) -> None:
        self.cannot: dict[str, str] = {}
        self.unable: CannotRun | None = None
        """It takes part no more."""
        self._answered = False

    def prepare(self) -> None:
        """Makes what the peer needs, once; minutes the first time. Raises CannotRun."""
        if self.requirements:
            try:
                _make_environment(self.environment(), self.requirements, self.size)
            except OSError as error:
                raise self.cannot_run(str(error)) from error

    def cannot_run(self, reason: str) -> CannotRun:
        self.unable = CannotRun(f"{self.name}: cannot run here: {reason}")
        return self.unable

    def _why(self, error: Exception, process: subprocess.Popen[bytes], output: Path) -> CannotRun | None:
        """Not None if it has never answered, and ended or kept silent. What it printed is kept."""
        if self._answered:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)  # whoever met the closed connection may be faster than its end
        if process.returncode is None and not isinstance(error, TimeoutError):
            return None
        kept = bench_home() / f"{self.name}.log"
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(output, kept)
        how = str(error) if process.returncode is None else f"it ended with {process.returncode}"
        return self.cannot_run(f"{how}: {last_line(output)} (all it said: {kept})")

    def environment(self) -> Path:
        pins = "-".join(part.replace("==", "-") for part in self.requirements if "==" in part)
        return bench_home() / "peers" / pins

    def command(self, folders: Sequence[Path], port: int, home: Path) -> list[str]:
        raise NotImplementedError

    def variables(self, home: Path) -> dict[str, str]:
        return {"HF_HUB_OFFLINE": "1"}

    def model_name(self, folder: Path) -> str:
        return str(folder)

    def extra(self) -> dict[str, Any]:
        return {}

    def wait_until_quiet(self, url: str) -> None:
        """Returns when nothing of the start goes on in the background."""

    @contextlib.contextmanager
    def serve(
        self, folders: Sequence[Path], *, warm: bool = True, arguments: Sequence[str] = ()
    ) -> Iterator[Served]:
        """Runs it with these models; the first one is asked for at the start where the peer can.

        `warm`: only when every model has answered and nothing is left of the start; else as soon as the
        process has begun. `arguments` go to the peer's command line.
        """
        if self.unable:
            raise self.unable
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as name:
            home = Path(name)
            command = [*self.command(folders, port, home), *arguments]
            names = {folder: self.model_name(folder) for folder in folders}
            with running(command, {**os.environ, **self.variables(home)}, home / "output") as process:
                served = Served(f"http://127.0.0.1:{port}", names, process.pid, self.extra())
                try:
                    if warm:
                        for folder in reversed(folders):  # the first one last: some hold one model only
                            wait_for_answer(process, served, folder, home / "output")
                            self._answered = True
                        self.wait_until_quiet(served.url)
                    yield served
                except Exception as error:
                    if why := self._why(error, process, home / "output"):
                        raise why from error
                    raise
                self._answered = True


class Mlxk(Peer):
    name = "mlxk"

    def command(self, folders: Sequence[Path], port: int, home: Path) -> list[str]:
        (home / "models").mkdir()
        for folder in folders:
            if self.model_name(folder) != "tiny":
                (home / "models" / self.model_name(folder)).symlink_to(folder)
        return [
            *(sys.executable, "-P", "-m", "mlxk", "serve", *map(self.model_name, folders)),
            *("--port", str(port)),
        ]

    def variables(self, home: Path) -> dict[str, str]:
        return {"MLXK_HOME": str(home), "HF_HOME": str(home / "hf"), **super().variables(home)}

    def model_name(self, folder: Path) -> str:
        return folder.name

    def wait_until_quiet(self, url: str) -> None:
        """The spare worker's imports take a core for two seconds."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            with urllib.request.urlopen(f"{url}/pool") as reply:
                spare = json.load(reply)["server"]["spare"]
            if spare and spare["warm"]:
                return
            time.sleep(0.1)
        raise RuntimeError("the spare worker did not become warm")


class MlxkBefore(Mlxk):
    """Another state of mlxk, for a change's before and after: `MLXK_BENCH_BEFORE=CHECKOUT`."""

    name = "mlxk-before"

    def variables(self, home: Path) -> dict[str, str]:
        return {**super().variables(home), "PYTHONPATH": os.environ["MLXK_BENCH_BEFORE"]}


class MlxLmServer(Peer):
    name = "mlx_lm.server"
    requirements = ("mlx-lm==0.32.2", MLX)
    settings = "defaults, --log-level WARNING"

    def command(self, folders: Sequence[Path], port: int, home: Path) -> list[str]:
        return [
            *(str(self.environment() / "bin" / "mlx_lm.server"), "--model", str(folders[0])),
            *("--port", str(port), "--log-level", "WARNING"),
        ]


class MlxKnife(Peer):
    name = "mlx-knife"
    requirements = ("mlx-knife==2.0.8", MLX)
    settings = (
        "defaults; requests say repetition_penalty 1.0 (its own default is 1.1); tiny's rope_theta stands "
        "where its older mlx-lm looks for it"
    )

    def command(self, folders: Sequence[Path], port: int, home: Path) -> list[str]:
        for folder in folders:
            _add_to_hub_cache(home / "hf" / "hub", self.model_name(folder), folder)
        return [
            *(str(self.environment() / "bin" / "mlxk2"), "serve", "--model", self.model_name(folders[0])),
            *("--port", str(port), "--log-level", "warning"),
        ]

    def variables(self, home: Path) -> dict[str, str]:
        return {"HF_HOME": str(home / "hf"), **super().variables(home)}

    def model_name(self, folder: Path) -> str:
        return f"mlx-community/bench-{folder.name}"

    def extra(self) -> dict[str, Any]:
        return {"repetition_penalty": 1.0}


class VllmMlx(Peer):
    """Large: only on request."""

    name = "vllm-mlx"
    size = "6.5 GB"
    requirements = ("vllm-mlx==0.6.0", MLX)
    settings = "defaults, --continuous-batching"

    def command(self, folders: Sequence[Path], port: int, home: Path) -> list[str]:
        return [
            *(str(self.environment() / "bin" / self.name), "serve", str(folders[0])),
            *("--port", str(port), "--continuous-batching"),
        ]


class RapidMlx(Peer):
    """Large: only on request."""

    name = "rapid-mlx"
    size = "6.2 GB"
    requirements = ("rapid-mlx==0.16.10", MLX)

    def command(self, folders: Sequence[Path], port: int, home: Path) -> list[str]:
        return [str(self.environment() / "bin" / self.name), "serve", str(folders[0]), "--port", str(port)]


class LimitPeer(Peer):
    """mlx_lm's BatchGenerator in one process with no server."""

    name = "limit"
    serves_http = False
    settings = "BatchGenerator, one shared sampler per kind, no prefix cache"

    @contextlib.contextmanager
    def serve(
        self, folders: Sequence[Path], *, warm: bool = True, arguments: Sequence[str] = ()
    ) -> Iterator[Served]:
        with Limit(folders) as limit:
            watcher = _end_with_us(limit.pid)
            try:
                yield Served("", {folder: str(folder) for folder in folders}, limit.pid, limit=limit)
            finally:
                watcher.kill()
                watcher.communicate()


BY_NAME: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Mlxk, MlxLmServer, MlxKnife, LimitPeer, VllmMlx, RapidMlx, MlxkBefore)
}
USUAL = ("limit", "mlx_lm.server", "mlxk", "mlx-knife")


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
    watcher = _end_with_us(process.pid)
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


def _end_with_us(pid: int) -> subprocess.Popen[bytes]:
    """Ends the process if the bench is killed: the pipe closes then, and the shell stops reading.

    SIGCONT for all of it, and for our own group's load clients: `bench.turns` may have frozen them.
    """
    thaw = "; ".join(f"kill -CONT {one} 2>&-" for one in (pid, f"-{pid}", f"-{os.getpgrp()}"))
    command = ["sh", "-c", f"read _; kill -TERM {pid}; {thaw}"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def wait_for_answer(process: subprocess.Popen[bytes], served: Served, folder: Path, output: Path) -> None:
    """Until this model has answered a short completion: it is loaded, and its kernels are compiled."""
    body = served.body(folder, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4})
    request = urllib.request.Request(
        f"{served.url}{client.CHAT}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=START_TIMEOUT_S):
                return
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{served.url}: {error}: {error.read()[:300]!r}") from error
        except (OSError, http.client.HTTPException) as error:
            if process.poll() is not None:
                raise RuntimeError(f"it ended with {process.returncode}: {last_line(output)}") from error
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer in {START_TIMEOUT_S:.0f} s") from error
            time.sleep(0.05)


def last_line(output: Path) -> str:
    """Of what a program printed: as a rule, what ended it. pip says it after `ERROR:`."""
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return [*(lines or ["it said nothing"])[-1:], *errors][-1][:300]


def _make_environment(folder: Path, requirements: Sequence[str], size: str) -> None:
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


def _add_to_hub_cache(hub: Path, name: str, folder: Path) -> None:
    """The folder as the hub's cache would hold it."""
    repo = hub / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    for file in folder.iterdir():
        if file.name != "config.json":
            (snapshot / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text())
    for key, value in config.get("rope_parameters", {}).items():
        config.setdefault(key, value)
    (snapshot / "config.json").write_text(json.dumps(config))
