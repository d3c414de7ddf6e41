"""The peers under comparison: made, started on a free port, waited for, ended.

Each rival lives in a virtual environment of its own below `bench_home()`, with pinned versions; the limit is
no server at all (`bench.limit`). All run with their defaults; what differs is named in `settings`.
"""

from __future__ import annotations

import contextlib
import fcntl
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


class Peer:
    """A program that serves models. `cannot`: scene's name → why not; the table prints it."""

    name = ""
    requirements: tuple[str, ...] = ()
    settings = "defaults"
    serves_http = True

    def __init__(self) -> None:
        self.cannot: dict[str, str] = {}

    def prepare(self) -> None:
        """Makes what the peer needs, once; minutes the first time."""
        if self.requirements:
            _make_environment(self.environment(), self.requirements)

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
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as name:
            home = Path(name)
            command = [*self.command(folders, port, home), *arguments]
            names = {folder: self.model_name(folder) for folder in folders}
            with running(command, {**os.environ, **self.variables(home)}, home / "output") as process:
                served = Served(f"http://127.0.0.1:{port}", names, process.pid, self.extra())
                if warm:
                    for folder in reversed(folders):  # the first one last: some hold one model only
                        wait_for_answer(process, served, folder, home / "output")
                    self.wait_until_quiet(served.url)
                yield served


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
    """6.5 GB: only on request."""

    name = "vllm-mlx"
    requirements = ("vllm-mlx==0.6.0", MLX)
    settings = "defaults, --continuous-batching"

    def command(self, folders: Sequence[Path], port: int, home: Path) -> list[str]:
        return [
            *(str(self.environment() / "bin" / self.name), "serve", str(folders[0])),
            *("--port", str(port), "--continuous-batching"),
        ]


class RapidMlx(Peer):
    """6.2 GB: only on request."""

    name = "rapid-mlx"
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
            yield Served("", {folder: str(folder) for folder in folders}, limit.pid, limit=limit)


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
    """Ends the process if the bench is killed: the pipe closes then, and the shell stops reading."""
    command = ["sh", "-c", f"read _; kill -TERM {pid}"]
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
        except (urllib.error.URLError, ConnectionError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                told = output.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{process.args!r} does not answer: {error}\n{told}") from error
            time.sleep(0.05)


def _make_environment(folder: Path, requirements: Sequence[str]) -> None:
    """A virtual environment; whole once its mark is there. Two benches at once make one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = folder / ".installed"
        wanted = " ".join(requirements)
        if mark.exists() and mark.read_text() == wanted:
            return
        print(f"installing {wanted} into {folder} (minutes the first time)", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--disable-pip-version-check", *requirements], check=True)
        mark.write_text(wanted)


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
