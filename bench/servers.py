"""The servers under comparison: started on a free port, waited for, ended."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

START_TIMEOUT_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], url: str, model: str, env: dict[str, str]) -> Iterator[str]:
    """The server's URL, as soon as it has answered one completion (so that loading is not measured)."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=output, stderr=output)
        try:
            _wait_for_answer(process, url, model)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_answer(process: subprocess.Popen[bytes], url: str, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=START_TIMEOUT_S):
                return
        except (urllib.error.URLError, ConnectionError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args} does not answer: {error}") from error
            time.sleep(0.2)


@contextlib.contextmanager
def mlxk(model: str) -> Iterator[tuple[str, str]]:
    """(url, model name)"""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as home:
        env = {"MLXK_HOME": home, "MLXK_LOG_LEVEL": "warning"}
        command = [sys.executable, "-P", "-m", "mlxk", "serve", model, "--port", str(port)]
        with running(command, url, model, env):
            _wait_for_spare(url)
            yield url, model


def _wait_for_spare(url: str) -> None:
    """The spare worker's imports take a core for two seconds: not while something is measured."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{url}/pool") as reply:
            spare = json.load(reply)["server"]["spare"]
        if spare and spare["warm"]:
            return
        time.sleep(0.2)
    raise RuntimeError("the spare worker did not become warm")


@contextlib.contextmanager
def mlx_lm_server(folder: Path) -> Iterator[tuple[str, str]]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(folder), "--port", str(port)]
    command += ["--log-level", "WARNING"]
    with running(command, url, "default_model", {"HF_HUB_OFFLINE": "1"}):
        yield url, "default_model"
