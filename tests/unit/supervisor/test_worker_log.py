"""What workers print is read at once, whatever it is, and its end is never waited for in vain."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxk.supervisor import worker_log
from mlxk.supervisor.worker_log import TAIL_BYTES, LogPump, WorkerLog
from tests.unit.supervisor.aio import in_loop


@pytest.fixture
def pump() -> Iterator[LogPump]:
    pump = LogPump()
    yield pump
    pump.close()


class Output:
    """A pipe as a worker has it: the test holds the write end."""

    def __init__(self, pump: LogPump, path: Path) -> None:
        read_end, self.write_end = os.pipe()
        os.set_blocking(read_end, False)
        self.log = WorkerLog(path, read_end)
        pump.add(self.log)

    def print(self, data: bytes) -> None:
        """Blocks while the pipe is full, as a worker would."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.write_end, view) :]

    def end(self) -> None:
        os.close(self.write_end)


@in_loop
async def test_the_tail_holds_the_last_words_once_the_drop_is_done(pump: LogPump, tmp_path: Path) -> None:
    output = Output(pump, tmp_path / "w.log")
    output.print(b"first\nlast words\n")
    output.end()
    await pump.drop(output.log)
    assert output.log.tail() == ("first", "last words")
    assert (tmp_path / "w.log").read_bytes() == b"first\nlast words\n"


@in_loop
async def test_the_fronts_own_notes_stand_in_order_before_what_follows(pump: LogPump, tmp_path: Path) -> None:
    output = Output(pump, tmp_path / "w.log")
    output.log.note("first")
    output.log.note("second")
    output.print(b"loading\n")
    output.end()
    await pump.drop(output.log)
    assert output.log.tail() == ("--- first", "--- second", "loading")


@in_loop
async def test_a_note_about_a_silent_worker_is_written_too(pump: LogPump, tmp_path: Path) -> None:
    output = Output(pump, tmp_path / "w.log")
    output.log.note("it loads")
    output.end()
    await pump.drop(output.log)
    assert (tmp_path / "w.log").read_bytes() == b"--- it loads\n"


@in_loop
async def test_a_grandchild_that_holds_the_pipe_is_not_waited_for(pump: LogPump, tmp_path: Path) -> None:
    output = Output(pump, tmp_path / "w.log")
    output.print(b"mine\n")
    async with asyncio.timeout(2):
        await pump.drop(output.log)
    assert output.log.tail() == ("mine",)
    output.end()


@pytest.mark.parametrize(
    "data",
    [b"y" * 5_000_000, b"flood line\n" * 300_000, bytes(range(256)) * 8000],
    ids=["one long line", "a flood of lines", "binary"],
)
@in_loop
async def test_no_output_makes_the_worker_wait(pump: LogPump, tmp_path: Path, data: bytes) -> None:
    output = Output(pump, tmp_path / "w.log")
    await asyncio.to_thread(output.print, data)  # would hang if nobody read
    output.end()
    await pump.drop(output.log)
    assert (tmp_path / "w.log").stat().st_size == len(data)
    tail = output.log.tail()
    assert len(tail) <= 20
    assert all(len(line) <= 400 for line in tail)


@in_loop
async def test_a_log_that_cannot_be_written_does_not_stop_the_reading(pump: LogPump, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    output = Output(pump, tmp_path / "file" / "below a file" / "w.log")
    await asyncio.to_thread(output.print, b"x" * 1_000_000 + b"\nend\n")
    output.end()
    await pump.drop(output.log)
    assert output.log.tail()[-1] == "end"


@in_loop
async def test_a_full_disk_does_not_stop_the_reading(pump: LogPump, tmp_path: Path) -> None:
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old_limit[1]))
    try:
        output = Output(pump, tmp_path / "w.log")
        await asyncio.to_thread(output.print, b"x" * 1_000_000 + b"\nend\n")
        output.end()
        await pump.drop(output.log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert output.log.tail()[-1] == "end"


def test_a_long_log_begins_anew_and_keeps_one_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_log, "MAX_FILE_BYTES", 100)
    log = WorkerLog(tmp_path / "w.log", -1)
    for number in range(10):
        log.write(b"%d" % number * 40)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.log", "w.log.1"]
    assert all(path.stat().st_size <= 140 for path in tmp_path.iterdir())


def test_a_logs_memory_is_bounded(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path / "w.log", -1)
    for _ in range(100):
        log.write(b"z" * 30_000)
        log.write(b"\n")
    log.close()
    assert sum(map(len, log.tail(10**6))) <= 2 * TAIL_BYTES


def test_closing_takes_what_is_there_and_ends_the_thread(tmp_path: Path) -> None:
    pump = LogPump()
    output = Output(pump, tmp_path / "w.log")
    output.print(b"still here\n")
    pump.close()
    assert (tmp_path / "w.log").read_bytes() == b"still here\n"
    assert "worker-logs" not in {thread.name for thread in threading.enumerate()}
    output.end()


def test_closing_twice_harms_nobodys_descriptor(tmp_path: Path) -> None:
    pump = LogPump()
    pump.close()
    reused = os.pipe()  # takes the numbers that the pump's own pipe had
    pump.close()
    os.set_blocking(reused[0], False)
    with pytest.raises(BlockingIOError):
        os.read(reused[0], 1)
    for descriptor in reused:
        os.close(descriptor)
