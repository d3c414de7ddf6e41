"""A hub, a machine that talks to it, and the command line on that machine."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub.constants
import pytest

from mlxk.cli.main import invoke
from tests.envelopes import check_output
from tests.hub.hub_server import standing_hub
from tests.hub.stand_in import Hub
from tests.unit.cli.conftest import PACKAGE_PARENT, Result, Terminal

NAME = "mlx-community/Small-4bit"
CONFIG = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 8192}


def weights(n_bytes: int, fill: int = 1) -> bytes:
    """A safetensors file with one tensor."""
    tensor = {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}
    header = json.dumps({"__metadata__": {"format": "mlx"}, "w": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([fill]) * n_bytes


def model_files(n_bytes: int = 300_000, fill: int = 1, **more: bytes) -> dict[str, bytes]:
    """A whole model as a repository has it, with what nobody needs beside it."""
    return {
        ".gitattributes": b"*.safetensors filter=lfs",
        "README.md": b"# Small\n",
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b'{"added_tokens": [], "normalizer": null}',
        "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
        "model.safetensors": weights(n_bytes, fill),
        "pytorch_model.bin": b"x" * 100_000,
        "original/params.json": b"{}",
        "demo.png": b"png",
    } | {name.replace("__", "."): data for name, data in more.items()}


@dataclass
class Machine:
    """MLXK_HOME, the hub's cache, and the environment of a `mlxk`."""

    root: Path
    env: dict[str, str]
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def cache(self) -> Path:
        return self.root / "hf" / "hub"

    def repo(self, name: str = NAME) -> Path:
        return self.cache / f"models--{name.replace('/', '--')}"

    def files(self) -> set[str]:
        """Everything in the cache but locks and the tag; links too."""
        return {
            str(path.relative_to(self.cache))
            for path in self.cache.rglob("*")
            if not path.is_dir() and ".locks" not in path.parts and path.name != "CACHEDIR.TAG"
        }

    def partials(self) -> list[Path]:
        return sorted(self.cache.rglob("*.incomplete"))

    def mlxk(self, *arguments: str, stdin: bytes | None = b"") -> Result:
        """In this process. `stdin=None`: a terminal at which nobody types."""
        kind = io.TextIOWrapper if stdin is not None else Terminal
        self.monkeypatch.setattr(sys, "stdin", kind(io.BytesIO(stdin or b""), encoding="utf-8"))
        return self._invoke(arguments)

    def typing(self, text: str, *arguments: str) -> Result:
        """In this process, at a terminal into which `text` is typed."""
        self.monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(text.encode()), encoding="utf-8"))
        return self._invoke(arguments)

    def _invoke(self, arguments: tuple[str, ...]) -> Result:
        self.capsys.readouterr()
        code = invoke(arguments)
        captured = self.capsys.readouterr()
        check_output(arguments, captured.out)
        return Result(int(code), captured.out, captured.err)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "mlxk", *arguments]

    def run(self, *arguments: str, **env: str) -> Result:
        """In a process of its own."""
        done = subprocess.run(
            self.command(*arguments),
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        check_output(arguments, done.stdout)
        return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with standing_hub() as one:
        yield one


@pytest.fixture
def machine(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Machine:
    env = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "MLXK_HOME": str(tmp_path / "home"),
        "PYTHONPATH": PACKAGE_PARENT,
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)  # the engine sets them, also in a process of tests,
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # and the first import remembers
    return Machine(tmp_path, dict(os.environ), capsys, monkeypatch)


StartProcess = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(machine: Machine) -> Iterator[StartProcess]:
    """`start("pull", NAME)`: a process with pipes, ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            machine.command(*arguments),
            env=machine.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
