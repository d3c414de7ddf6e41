"""Following a log: nothing twice, nothing lost, whatever happens to the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxk.cli.tail import LogReader
from mlxk.config.log_writer import RotatingFile


def text_of(reader: LogReader) -> bytes:
    return b"".join(reader.read())


@pytest.mark.parametrize("n_lines", [0, 1, 2, 3, 10])
def test_the_last_lines_reach_into_older_files(tmp_path: Path, n_lines: int) -> None:
    (tmp_path / "m.log.2").write_bytes(b"1\n2\n")
    (tmp_path / "m.log.1").write_bytes(b"3\n")
    (tmp_path / "m.log").write_bytes(b"4\n5")
    with LogReader(tmp_path / "m.log") as reader:
        expected = [b"1\n", b"2\n", b"3\n", b"4\n", b"5"]
        assert reader.last_lines(n_lines) == (expected[-n_lines:] if n_lines else [])
        assert text_of(reader) == b""


def test_last_lines_of_a_large_file(tmp_path: Path) -> None:
    lines = [b"line %d\r\x1b\xff\n" % number for number in range(50_000)]
    (tmp_path / "m.log").write_bytes(b"".join(lines))
    with LogReader(tmp_path / "m.log") as reader:
        assert reader.last_lines(20_000) == lines[-20_000:]


def test_following_goes_on_where_the_last_lines_ended(tmp_path: Path) -> None:
    path = tmp_path / "m.log"
    path.write_bytes(b"old\n")
    with LogReader(path) as reader:
        assert reader.last_lines(1) == [b"old\n"]
        RotatingFile(path).write(b"new\n")
        assert text_of(reader) == b"new\n"
        assert text_of(reader) == b""


def test_a_log_that_does_not_exist_yet_is_followed_from_its_beginning(tmp_path: Path) -> None:
    with LogReader(tmp_path / "logs" / "m.log") as reader:
        assert reader.last_lines(5) == []
        assert text_of(reader) == b""
        RotatingFile(tmp_path / "logs" / "m.log").write(b"born\n")
        assert text_of(reader) == b"born\n"


def test_following_across_many_rotations_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.log"
    log = RotatingFile(path, max_bytes=200)
    got = b""
    with LogReader(path) as reader:
        for number in range(500):
            log.write(b"line %d\n" % number)
            if number % 7 == 0:
                got += text_of(reader)
        got += text_of(reader)
        assert not reader.lost
    assert got == b"".join(b"line %d\n" % number for number in range(500))


def test_two_rotations_between_two_looks_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.log"
    log = RotatingFile(path, max_bytes=10)
    with LogReader(path) as reader:
        log.write(b"one\n")
        assert text_of(reader) == b"one\n"
        for word in (b"two.....\n", b"three...\n"):
            log.write(word)
        assert text_of(reader) == b"two.....\nthree...\n"


def test_files_that_are_gone_before_they_were_read_are_told(tmp_path: Path) -> None:
    path = tmp_path / "m.log"
    log = RotatingFile(path, max_bytes=10)
    with LogReader(path) as reader:
        log.write(b"one\n")
        assert text_of(reader) == b"one\n"
        for number in range(9):
            log.write(b"line %d\n" % number)
        assert text_of(reader) == b"line 6\nline 7\nline 8\n"
        assert reader.lost


def test_a_removed_and_a_new_log_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "m.log"
    path.write_bytes(b"old\n")
    (tmp_path / "m.log.1").write_bytes(b"older\n")
    with LogReader(path) as reader:
        reader.last_lines(0)
        path.unlink()
        assert text_of(reader) == b""
        path.write_bytes(b"anew\n")
        assert text_of(reader) == b"anew\n"
        assert not reader.lost


def test_an_emptied_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "m.log"
    path.write_bytes(b"long line\n")
    with LogReader(path) as reader:
        reader.last_lines(0)
        path.write_bytes(b"new\n")
        assert text_of(reader) == b"new\n"
