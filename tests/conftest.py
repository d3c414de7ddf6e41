"""Every test: a home of its own, no variable of the user's, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leaks import describe_leaks, take_traces


@pytest.fixture(scope="session")
def socket_root() -> Iterator[Path]:
    """Where all servers of this session make their socket directories: short, and nobody else's."""
    root = Path(tempfile.mkdtemp(prefix="mt-", dir="/tmp"))
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def clean_environment(socket_root: Path) -> Iterator[None]:
    """No setting and no model of the user's is seen, and nothing of the user's is written."""
    saved = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("MLXK_", "HF_", "OPENAI_", "XDG_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ["MLXK_HOME"] = str(socket_root / "no-home")
    os.environ["HF_HOME"] = str(socket_root / "no-hub")
    os.environ["TMPDIR"] = str(socket_root)
    tempfile.tempdir = None
    yield
    os.environ.clear()
    os.environ.update(saved)
    tempfile.tempdir = None


@pytest.fixture(autouse=True)
def nothing_left_behind(clean_environment: None, socket_root: Path) -> Iterator[None]:
    """Fails a test that leaves a process, a thread or a socket directory."""
    before = take_traces(socket_root)
    yield
    leaks = describe_leaks(before, socket_root)
    if leaks:
        pytest.fail("the test left behind:\n  " + "\n  ".join(leaks))
