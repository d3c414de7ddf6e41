"""Writing logs: nobody waits, nothing grows without bound, and what is lost is counted."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxk.config import log_files, log_writer
from mlxk.config.log_writer import LogWriter, Outlet, RotatingFile


@pytest.fixture
def writer() -> Iterator[LogWriter]:
    writer = LogWriter("test-writer")
    yield writer
    assert writer.close(10)


class StuckDisk:
    """A target that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.written = b""

    def write(self, data: bytes) -> None:
        self.entered.set()
        assert self.go_on.wait(20)
        self.written += data


def test_a_file_rotates_and_its_size_is_bounded(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "m.log", max_bytes=100)
    for number in range(50):
        file.write(b"%02d" % number * 10 + b"\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.log", "m.log.1", "m.log.2"]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert (tmp_path / "m.log").read_bytes().endswith(b"49\n")


def test_a_rotation_loses_no_line_but_those_of_the_oldest_file(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "m.log", max_bytes=1000)
    for number in range(1000):
        file.write(b"line %d\n" % number)
    kept = b"".join((tmp_path / f"m.log{end}").read_bytes() for end in (".2", ".1", "")).splitlines()
    assert kept == [b"line %d" % number for number in range(1000 - len(kept), 1000)]
    assert len(kept) > 2000 // len(b"line 999\n")


def test_one_write_larger_than_a_file_is_kept_whole(tmp_path: Path) -> None:
    RotatingFile(tmp_path / "m.log", max_bytes=100).write(b"x" * 5000)
    assert (tmp_path / "m.log").stat().st_size == 5000


def test_a_removed_folder_is_made_again(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "logs" / "m.log")
    file.write(b"one\n")
    shutil.rmtree(tmp_path / "logs")
    file.write(b"two\n")
    assert (tmp_path / "logs" / "m.log").read_bytes() == b"two\n"


def test_an_unwritable_file_is_told_once_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "RETRY_S", 0.0)
    (tmp_path / "logs").touch()  # a file where the folder should be
    told: list[str] = []
    file = RotatingFile(tmp_path / "logs" / "m.log", on_trouble=told.append)
    for _ in range(10):
        file.write(b"lost\n")
    assert len(told) == 1
    assert "m.log cannot be written" in told[0]
    (tmp_path / "logs").unlink()
    file.write(b"kept\n")
    text = (tmp_path / "logs" / "m.log").read_text()
    assert "10 lines (50 bytes) are missing here" in text
    assert text.endswith("kept\n")


def test_a_full_disk_is_told_once_and_raises_nothing(tmp_path: Path) -> None:
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    told: list[str] = []
    file = RotatingFile(tmp_path / "m.log", on_trouble=told.append)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old_limit[1]))
    try:
        for _ in range(100):
            file.write(b"x" * 999 + b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert len(told) == 1
    assert (tmp_path / "m.log").stat().st_size <= 4096


def test_a_named_pipe_in_the_files_place_holds_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.log")
    told: list[str] = []
    RotatingFile(tmp_path / "m.log", on_trouble=told.append).write(b"x\n")
    assert len(told) == 1


def test_the_folder_as_a_whole_is_bounded_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "FILE_BYTES", 1000)
    monkeypatch.setattr(log_files.prune, "__kwdefaults__", {"keep_s": 1e6, "folder_bytes": 20_000})
    for number in range(40):
        file = RotatingFile(tmp_path / f"m{number}.log")
        for _ in range(40):
            file.write(b"x" * 99 + b"\n")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000 + 3 * 1000


def test_a_slow_disk_makes_nobody_wait_and_what_is_lost_is_counted(
    writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "BACKLOG_BYTES", 1000)
    disk = StuckDisk()
    outlet = Outlet(writer, disk.write)
    outlet.put(b"first\n")
    assert disk.entered.wait(10)
    for _ in range(100_000):  # would never end if it waited
        outlet.put(b"flood\n")
    assert outlet.pending_bytes <= 1000
    disk.go_on.set()
    assert writer.flush(10)
    outlet.put(b"last\n")
    assert writer.flush(10)
    kept = disk.written.count(b"flood")
    assert 0 < kept < 200
    assert (
        b"--- %d lines (%d bytes) are missing here" % (100_000 - kept, 6 * (100_000 - kept)) in disk.written
    )
    assert disk.written.endswith(b"last\n")


def test_one_slow_target_does_not_use_up_anothers_room(
    writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "BACKLOG_BYTES", 100)
    disk = StuckDisk()
    slow, other = Outlet(writer, disk.write), Outlet(writer, disk.write)
    slow.put(b"x" * 90)
    slow.put(b"x" * 90)
    other.put(b"y" * 90)
    disk.go_on.set()
    assert writer.flush(10)
    assert b"y" * 90 in disk.written


def test_a_stuck_disk_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LogWriter("test-writer")
    disk = StuckDisk()
    Outlet(writer, disk.write).put(b"x")
    assert disk.entered.wait(10)
    assert not writer.flush(0.05)
    assert not writer.close(0.05)
    disk.go_on.set()
    assert writer.close(10)


def test_closing_writes_what_is_there_and_a_target_that_fails_harms_no_other(writer: LogWriter) -> None:
    got: list[bytes] = []

    def fail(data: bytes) -> None:
        raise ValueError(data)

    bad, good = Outlet(writer, fail), Outlet(writer, got.append)
    for _ in range(10):
        bad.put(b"x")
        good.put(b"y")
    assert writer.close(10)
    assert b"".join(got) == b"y" * 10
    good.put(b"late")  # counted as lost, and no error
    assert good.lost_bytes == 4


def test_a_writer_without_work_has_no_thread() -> None:
    writer = LogWriter("test-writer")
    assert "test-writer" not in {thread.name for thread in threading.enumerate()}
    assert writer.close(1)
