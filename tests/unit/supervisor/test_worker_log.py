"""What workers print is read at once, whatever it is, and its end is never waited for in vain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlxk.config.log_files import model_log, spare_log
from mlxk.config.log_writer import RotatingFile
from mlxk.supervisor import worker_log
from mlxk.supervisor.log_shelf import LogShelf
from mlxk.supervisor.worker_log import TAIL_BYTES, LogPump, WorkerLog
from tests.process.watch import until
from tests.unit.supervisor.aio import in_loop

MODEL = "org/model"


@pytest.fixture
def pump(tmp_path: Path) -> Iterator[LogPump]:
    pump = LogPump(LogShelf(tmp_path))
    yield pump
    pump.close()


class Output:
    """A pipe as a worker has it: the test holds the write end."""

    def __init__(self, pump: LogPump, model: str | None = MODEL, worker_id: str = "w1") -> None:
        self.pump = pump
        read_end, self.write_end = os.pipe()
        os.set_blocking(read_end, False)
        self.log = WorkerLog(worker_id, 4711, read_end)
        pump.add(self.log)
        if model is not None:
            self.log.belongs_to(model)

    def print(self, data: bytes) -> None:
        """Blocks while the pipe is full, as a worker would."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.write_end, view) :]

    async def end(self, last_note: str | None = None) -> None:
        os.close(self.write_end)
        await self.drop()
        if last_note is not None:
            self.log.last_note(last_note)
            await self.drop()

    async def drop(self) -> None:
        await self.pump.drop(self.log)


@contextlib.contextmanager
def busy_with(output: Output, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The pump's thread is at this one's end, which takes as long as the block."""
    busy, go_on, write = threading.Event(), threading.Event(), WorkerLog.write

    def slow_write(self: WorkerLog, data: bytes, shelf: LogShelf) -> None:
        if self is output.log:
            busy.set()
            assert go_on.wait(30)
        write(self, data, shelf)

    monkeypatch.setattr(WorkerLog, "write", slow_write)
    output.pump.drop(output.log)
    assert busy.wait(30)
    yield
    go_on.set()
    os.close(output.write_end)


def read(pump: LogPump, model: str | None = MODEL) -> bytes:
    assert pump.shelf.flush(10)
    path = spare_log(pump.shelf.folder) if model is None else model_log(pump.shelf.folder, model)
    return path.read_bytes()


@in_loop
async def test_the_tail_holds_the_last_words_once_the_drop_is_done(pump: LogPump) -> None:
    output = Output(pump)
    output.print(b"first\nlast words\n")
    await output.end()
    assert output.log.tail() == ("first", "last words")
    assert read(pump).endswith(b"first\nlast words\n")


@in_loop
async def test_a_log_begins_with_who_it_is_and_ends_with_how_that_ended(pump: LogPump) -> None:
    output = Output(pump)
    output.print(b"loading\n")
    await output.end("has ended: exit code 0")
    head, body, end = read(pump).decode().splitlines()
    assert re.fullmatch(r"--- 20..-..-..T..:..:..Z w1 \(pid 4711\) is for org/model", head)
    assert body == "loading"
    assert end.endswith("w1 (pid 4711) has ended: exit code 0")
    assert output.log.tail() == ("loading",)  # what a client is told are the worker's words only


@in_loop
async def test_a_log_that_is_complete_has_its_last_note_however_busy_its_reader_was(
    pump: LogPump, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Output(pump)
    await ended.end()
    loop, unwritten = asyncio.get_running_loop(), []
    tell = loop.call_soon_threadsafe

    def look_and_tell(callback: Callable[..., object], *words: object) -> object:
        unwritten.append(len(ended.log._notes))
        return tell(callback, *words)

    with busy_with(Output(pump, model=None, worker_id="w2"), monkeypatch):
        ended.log.last_note("has ended: exit code 0")
        monkeypatch.setattr(loop, "call_soon_threadsafe", look_and_tell)
        complete = pump.drop(ended.log)
    await complete
    assert unwritten == [0]
    assert b"w1 (pid 4711) has ended: exit code 0" in read(pump)


@in_loop
async def test_a_spares_early_lines_follow_it_to_its_model(pump: LogPump) -> None:
    output = Output(pump, model=None)
    output.print(b"early\n")
    await asyncio.to_thread(until, lambda: output.log.tail() == ("early",))
    output.log.belongs_to("tiny")
    output.print(b"late\n")
    await output.end()
    assert read(pump, "tiny").decode().splitlines()[1:] == ["early", "late"]
    assert not spare_log(pump.shelf.folder).exists()


@in_loop
async def test_a_silent_spares_model_log_begins_when_it_gets_its_model(pump: LogPump) -> None:
    output = Output(pump, model=None)
    output.log.belongs_to("tiny")
    await asyncio.to_thread(until, model_log(pump.shelf.folder, "tiny").exists)
    await output.end()
    assert b"is for tiny" in read(pump, "tiny")


@in_loop
async def test_what_never_got_a_model_has_a_log_of_its_own(pump: LogPump) -> None:
    output = Output(pump, model=None)
    output.print(b"dying at start\n")
    await output.end()
    head, body = read(pump, None).decode().splitlines()
    assert head.endswith("w1 (pid 4711) never got a model")
    assert body == "dying at start"


@in_loop
async def test_a_flooding_spare_is_kept_within_bounds(pump: LogPump) -> None:
    output = Output(pump, model=None)
    await asyncio.to_thread(output.print, b"x" * 999 + b"\n" + b"flood line\n" * 200_000)
    await output.end()
    data = read(pump, None)
    assert len(data) <= worker_log.HEAD_BYTES + 65536 + 200
    assert b"bytes were not kept" in data
    assert data.endswith(b"flood line\n")


@in_loop
async def test_two_workers_of_one_model_never_share_a_line(pump: LogPump) -> None:
    old, new = Output(pump, worker_id="w1"), Output(pump, worker_id="w2")
    # Its first note is written when the pump comes to it: before the lines that are looked at below.
    path = model_log(pump.shelf.folder, MODEL)
    await asyncio.to_thread(until, lambda: path.exists() and b"w2 (pid 4711) is for" in path.read_bytes())
    old.print(b"half a li")
    await asyncio.to_thread(until, lambda: old.log.tail() == ("half a li",))
    new.print(b"mine\n")
    await asyncio.to_thread(until, lambda: new.log.tail() == ("mine",))
    old.print(b"ne\n")
    await old.end()
    await new.end()
    lines = read(pump).decode().splitlines()
    assert lines[-5:] == ["half a li", "--- w2 (pid 4711):", "mine", "--- w1 (pid 4711):", "ne"]


@in_loop
async def test_the_next_worker_goes_on_in_the_same_log(pump: LogPump) -> None:
    for worker_id in ("w1", "w2"):
        output = Output(pump, worker_id=worker_id)
        output.print(b"no line end")
        await output.end()
    text = read(pump).decode()
    assert text.count("no line end\n") == 2
    assert [line[25:27] for line in text.splitlines() if line.startswith("---")] == ["w1", "w2"]


@in_loop
async def test_a_grandchild_that_holds_the_pipe_is_not_waited_for(pump: LogPump) -> None:
    output = Output(pump)
    output.print(b"mine\n")
    async with asyncio.timeout(20):  # it would wait for ever: nobody closes the other end before we do
        await output.drop()
    assert output.log.tail() == ("mine",)
    os.close(output.write_end)


@pytest.mark.parametrize(
    "data",
    [b"y" * 3_000_000, b"flood line\n" * 300_000, bytes(range(256)) * 8000],
    ids=["one long line", "a flood of lines", "binary"],
)
@in_loop
async def test_no_output_makes_the_worker_wait(pump: LogPump, data: bytes) -> None:
    output = Output(pump)
    await asyncio.to_thread(output.print, data)  # would hang if nobody read
    await output.end()
    assert data in read(pump)
    tail = output.log.tail()
    assert len(tail) <= 20
    assert all(len(line) <= 400 for line in tail)


@in_loop
async def test_a_disk_that_hangs_stalls_no_worker_and_costs_bounded_memory(
    pump: LogPump, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write blocks for ever, as on a dead network disk: what is printed then is read all the same."""
    go_on, entered = threading.Event(), threading.Event()
    write = RotatingFile.write

    def hang(self: RotatingFile, data: bytes) -> None:
        entered.set()
        assert go_on.wait(20)
        write(self, data)

    monkeypatch.setattr(RotatingFile, "write", hang)
    monkeypatch.setattr("mlxk.config.log_writer.BACKLOG_BYTES", 1_000_000)
    output = Output(pump)
    try:
        await asyncio.to_thread(output.print, b"flood line\n" * 1_000_000)
        await output.end()  # does not wait for the disk either
        assert entered.is_set()
        assert output.log.tail(1) == ("flood line",)
    finally:
        go_on.set()
    output = Output(pump, worker_id="w2")
    output.print(b"again\n")
    await output.end()
    data = read(pump)
    assert len(data) < 1_200_000
    assert b"lines (" in data
    assert b"are missing here: they came faster than they could be written" in data


@in_loop
async def test_a_log_that_cannot_be_written_does_not_stop_the_reading(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    pump = LogPump(LogShelf(tmp_path / "file" / "below a file"))
    output = Output(pump)
    await asyncio.to_thread(output.print, b"x" * 1_000_000 + b"\nend\n")
    await output.end()
    assert output.log.tail()[-1] == "end"
    pump.close()


def test_a_logs_memory_is_bounded(pump: LogPump) -> None:
    log = WorkerLog("w1", 1, -1)
    for _ in range(100):
        log.write(b"z" * 30_000, pump.shelf)
        log.write(b"\n", pump.shelf)
    assert sum(map(len, log.tail(10**6))) <= 2 * TAIL_BYTES


def test_closing_takes_what_is_there_and_ends_the_threads(tmp_path: Path) -> None:
    pump = LogPump(LogShelf(tmp_path))
    output = Output(pump)
    output.print(b"still here\n")
    pump.close()
    assert model_log(tmp_path, MODEL).read_bytes().endswith(b"still here\n")
    assert not {"worker-logs", "worker-log-files"} & {thread.name for thread in threading.enumerate()}
    os.close(output.write_end)


def test_closing_twice_harms_nobodys_descriptor(tmp_path: Path) -> None:
    pump = LogPump(LogShelf(tmp_path))
    pump.close()
    reused = os.pipe()  # takes the numbers that the pump's own pipe had
    pump.close()
    os.set_blocking(reused[0], False)
    with pytest.raises(BlockingIOError):
        os.read(reused[0], 1)
    for descriptor in reused:
        os.close(descriptor)


@in_loop
async def test_a_worker_that_comes_and_goes_between_two_looks_does_not_end_the_pump(
    pump: LogPump, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Output(pump)
    with busy_with(Output(pump, model=None, worker_id="w2"), monkeypatch):
        output = Output(pump, worker_id="w3")
        output.print(b"hardly there\n")
        ended = asyncio.ensure_future(output.end())
        await asyncio.sleep(0)  # it is dropped now
    await ended
    assert output.log.tail() == ("hardly there",)
    other.print(b"still read\n")
    await asyncio.to_thread(until, lambda: other.log.tail() == ("still read",))
    await other.end()
