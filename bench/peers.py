"""The peers under comparison: made, started on a free port, waited for, ended.

Each rival lives in a virtual environment of its own below `bench_home()`, with pinned versions; the limit is
no server at all (`bench.limit`). All run with their defaults; what differs is named in `settings`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
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
from bench.copies import add_to_hub_cache, with_older_config
from bench.environments import make_environment
from bench.limit import Limit
from bench.models import bench_home
from bench.processes import end_with_us, free_port, last_line, running

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
    urls: dict[Path, str] = field(default_factory=dict)
    """Where each model has a server of its own; `url` is the first one's."""

    def body(self, folder: Path, body: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.names[folder], **self.extra, **body}

    def flow(self, folder: Path, bodies: Sequence[dict[str, Any]], streams: int) -> client.Flow:
        """Keeps `streams` chat requests running until all are answered. The same call for every peer.

        `bodies` as for /v1/chat/completions, without `model` and `stream`.
        """
        if self.limit:
            return self.limit.flow(folder, bodies, streams)
        asked = [self.body(folder, body) for body in bodies]
        return client.call(client.flow, self.urls.get(folder, self.url), bodies=asked, streams=streams)


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
                make_environment(self.environment(), self.requirements, self.size)
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
            add_to_hub_cache(home / "hf" / "hub", self.model_name(folder), folder)
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


class OneModel(Peer):
    """Large, so only on request. A server for each model: they hold one."""

    flags: tuple[str, ...] = ()
    settings = "defaults; a server for each model; rope_theta stands where its older mlx-lm looks for it"

    def __init__(self) -> None:
        super().__init__()
        self.cannot["c-pool"] = "a server holds one model"

    def command(self, folders: Sequence[Path], port: int, home: Path) -> list[str]:
        (folder,) = folders
        model = home / "models" / folder.name
        with_older_config(model, folder)
        return [
            *(str(self.environment() / "bin" / self.name), "serve", str(model), "--port", str(port)),
            *("--served-model-name", self.model_name(folder), *self.flags),
        ]

    def variables(self, home: Path) -> dict[str, str]:
        """A home of its own: they keep settings and caches there."""
        return {"HOME": str(home), "RAPID_MLX_TELEMETRY": "0", **super().variables(home)}

    def model_name(self, folder: Path) -> str:
        return folder.name

    @contextlib.contextmanager
    def serve(
        self, folders: Sequence[Path], *, warm: bool = True, arguments: Sequence[str] = ()
    ) -> Iterator[Served]:
        if len(folders) > 1 and not warm:
            raise RuntimeError("a server holds one model")
        serve = super().serve
        with contextlib.ExitStack() as stack:
            each = {
                folder: stack.enter_context(serve([folder], warm=warm, arguments=arguments))
                for folder in folders
            }
            first = each[folders[0]]
            first.urls = {folder: served.url for folder, served in each.items()}
            first.names = {folder: self.model_name(folder) for folder in folders}
            yield first


class VllmMlx(OneModel):
    name = "vllm-mlx"
    size = "6.5 GB"
    requirements = ("vllm-mlx==0.6.0", MLX)
    flags = ("--continuous-batching",)
    settings = f"--continuous-batching, else {OneModel.settings}"


class RapidMlx(OneModel):
    name = "rapid-mlx"
    size = "6.2 GB"
    requirements = ("rapid-mlx==0.16.10", MLX)


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
            watcher = end_with_us(limit.pid)
            try:
                yield Served("", {folder: str(folder) for folder in folders}, limit.pid, limit=limit)
            finally:
                watcher.kill()
                watcher.communicate()


BY_NAME: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Mlxk, MlxLmServer, MlxKnife, LimitPeer, VllmMlx, RapidMlx, MlxkBefore)
}
USUAL = ("limit", "mlx_lm.server", "mlxk", "mlx-knife")


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
