"""Small worlds for one process: a full disk, a read-only home, a home of somebody else's. By user namespaces
of Linux, which need no rights; what is mounted in them ends with the process."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

MLXK = [sys.executable, "-P", "-m", "mlxk"]


@functools.cache
def can_mount() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def in_box(script: str, *arguments: str | Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A shell script as root of a namespace of its own, with its own mounts; `$1`... are `arguments`."""
    if not can_mount():
        pytest.skip("this system lets no user mount")
    command = ["unshare", "-rm", "sh", "-euc", script, "sh", *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def mlxk(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MLXK, *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def environment(home: Path, **settings: str) -> dict[str, str]:
    """Of a server with the fake engine, on any free port."""
    chosen = {"engine": "fake", "spare": "0", "port": "0", **settings}
    return {
        **os.environ,
        "MLXK_HOME": str(home),
        "HF_HOME": str(home.parent / "hf"),
        **{f"MLXK_{name.upper()}": value for name, value in chosen.items()},
    }
