"""The socket directory and the lock of the single instance."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlxk.supervisor import run_dir
from mlxk.supervisor.run_dir import (
    MAX_IPC_PATH_BYTES,
    InstanceLock,
    StartError,
    lock_holder,
    make_run_dir,
    remove_run_dir,
)


def test_the_directory_is_private_and_its_sockets_have_short_paths() -> None:
    path = make_run_dir()
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert len(os.fsencode(path / "s")) <= MAX_IPC_PATH_BYTES
    finally:
        remove_run_dir(path)
    assert not path.exists()


def test_a_temporary_directory_with_a_long_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setenv("TMPDIR", str(deep))
    path = make_run_dir()
    try:
        assert path.parent == Path("/tmp")
    finally:
        remove_run_dir(path)


def test_no_usable_place_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(prefix: str, dir: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(StartError, match=r"Permission denied.*TMPDIR"):
        make_run_dir()


def test_removing_what_is_gone_is_no_error(tmp_path: Path) -> None:
    remove_run_dir(tmp_path / "missing")


def test_one_lock_per_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXK_HOME", str(tmp_path / "home"))
    first, second = InstanceLock(), InstanceLock()
    assert first.acquire()
    assert not second.acquire()
    monkeypatch.setenv("MLXK_HOME", str(tmp_path / "another"))
    other = InstanceLock()
    assert other.acquire()
    other.release()
    monkeypatch.setenv("MLXK_HOME", str(tmp_path / "home"))
    first.release()
    first.release()
    assert second.acquire()
    second.release()


def test_a_home_that_cannot_be_made_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLXK_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(StartError, match="MLXK_HOME"):
        InstanceLock().acquire()


def test_the_lock_says_who_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXK_HOME", str(tmp_path))
    assert lock_holder() is None
    assert list(tmp_path.iterdir()) == []
    lock = InstanceLock()
    assert lock.acquire()
    assert lock_holder() == os.getpid()
    lock.release()
    assert lock_holder() is None


def test_who_only_looks_at_the_lock_keeps_nobody_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXK_HOME", str(tmp_path))
    """However long the system stops it in that instant: no core, Ctrl-Z."""
    monkeypatch.setattr(run_dir, "LOCK_PATIENCE_S", 0.0)
    (tmp_path / "lock").touch()
    with open(tmp_path / "lock") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)

        def sleep(_: float) -> None:
            fcntl.flock(looking, fcntl.LOCK_UN)

        monkeypatch.setattr(run_dir, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
        lock = InstanceLock()
        assert lock.acquire()
        lock.release()


def test_a_place_that_takes_no_sockets_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        if str(path).startswith(str(tmp_path)):
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(run_dir, "_try_to_bind", refuse)
    monkeypatch.setattr(run_dir, "MAX_IPC_PATH_BYTES", 200)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    path = make_run_dir()
    remove_run_dir(path)
    assert path.parent == Path("/tmp")
    assert list(tmp_path.iterdir()) == []


def test_a_relative_place_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    monkeypatch.setenv("TMPDIR", "")
    assert run_dir.run_dir_bases() == [Path("/tmp")]
