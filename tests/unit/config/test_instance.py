from __future__ import annotations

import dataclasses
import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mlxk.config.instance import Instance, read_instance, read_recorded, remove_instance, write_instance


@pytest.fixture
def me() -> Instance:
    created_at = psutil.Process().create_time()
    return Instance(os.getpid(), created_at, "/run/c", "http://127.0.0.1:8000", "0.1.0", ("serve", "tiny"))


def test_what_was_written_is_read_and_only_the_user_may_read_it(me: Instance, mlxk_home: Path) -> None:
    write_instance(me)
    assert read_instance() == me
    path = mlxk_home / "instance.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in mlxk_home.iterdir()] == ["instance.json"]


def test_a_second_writing_replaces_the_first(me: Instance) -> None:
    write_instance(me)
    newer = dataclasses.replace(me, url="http://127.0.0.1:1")
    write_instance(newer)
    assert read_instance() == newer


def test_without_a_file_nothing_runs() -> None:
    assert read_instance() is None


def test_a_process_that_ended_is_not_running(me: Instance) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        gone = dataclasses.replace(me, pid=child.pid, created_at=psutil.Process(child.pid).create_time())
        write_instance(gone)
        assert read_instance() == gone
    assert read_instance() is None


def test_a_zombie_is_not_running(me: Instance) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    try:
        created_at = psutil.Process(child.pid).create_time()
        assert child.stdout is not None
        child.stdout.read()  # ends with the process, which nobody has reaped yet
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        write_instance(dataclasses.replace(me, pid=child.pid, created_at=created_at))
        assert read_instance() is None
    finally:
        child.communicate()


def test_a_pid_that_was_used_again_is_not_taken_for_the_server(me: Instance) -> None:
    write_instance(dataclasses.replace(me, created_at=me.created_at - 60))
    assert read_instance() is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"pid": 1}', "\x00\x01", "[" * 100_000],
)
def test_garbage_in_the_file_means_that_nothing_runs(mlxk_home: Path, text: str) -> None:
    mlxk_home.mkdir()
    (mlxk_home / "instance.json").write_text(text)
    assert read_instance() is None
    remove_instance(os.getpid())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pid", "1"),
        ("pid", True),
        ("pid", -1),
        ("pid", 10**30),
        ("created_at", None),
        ("argv", "x"),
        ("argv", [1]),
    ],
)
def test_a_file_with_a_wrong_value_means_that_nothing_runs(
    me: Instance, mlxk_home: Path, key: str, value: object
) -> None:
    mlxk_home.mkdir()
    (mlxk_home / "instance.json").write_text(json.dumps(dataclasses.asdict(me) | {key: value}))
    assert read_instance() is None


def test_only_the_file_of_this_pid_is_removed(me: Instance, mlxk_home: Path) -> None:
    write_instance(me)
    remove_instance(me.pid + 1)
    assert read_instance() == me
    remove_instance(me.pid)
    assert not (mlxk_home / "instance.json").exists()
    remove_instance(me.pid)


def test_what_cannot_be_written_leaves_the_old_file_and_no_half(me: Instance, mlxk_home: Path) -> None:
    write_instance(me)
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, kept[1]))  # the write itself fails, in its middle
    try:
        with pytest.raises(OSError, match="too large"):
            write_instance(dataclasses.replace(me, url="http://127.0.0.1:1"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    assert read_instance() == me
    assert [entry.name for entry in mlxk_home.iterdir()] == ["instance.json"]


def test_what_the_file_says_of_a_server_that_is_gone_can_still_be_read(me: Instance) -> None:
    gone = dataclasses.replace(me, created_at=me.created_at - 60)
    write_instance(gone)
    assert read_instance() is None
    assert read_recorded() == gone
