"""The standard input as a prompt: whatever bytes it holds, and also if it never ends."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from mlxk.cli import prompt_input
from mlxk.cli.prompt_input import read_prompt


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`stdin(descriptor, encoding)` becomes the standard input; closed at the end."""
    opened = []

    def put(descriptor: int, encoding: str = "utf-8") -> None:
        opened.append(io.TextIOWrapper(os.fdopen(descriptor, "rb"), encoding=encoding))
        monkeypatch.setattr("sys.stdin", opened[-1])

    yield put
    for stream in opened:
        stream.close()


def a_file(path: Path, data: bytes) -> int:
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


def test_a_pipe_that_never_speaks_is_left_out_and_mentioned(
    stdin: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prompt_input, "PATIENCE_S", 0.01)
    read_end, write_end = os.pipe()  # as a CI runner hands it down
    stdin(read_end)
    assert read_prompt(["Say", "hi"], keep_last_newline=False) == "Say hi"
    assert "said nothing for" in capsys.readouterr().err
    os.close(write_end)


@pytest.mark.parametrize("data", [b"", b"\n"])
def test_a_pipe_that_ends_without_a_word_is_nothing(stdin: Callable[..., None], data: bytes) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, data)
    os.close(write_end)
    stdin(read_end)
    assert read_prompt(["Say hi"], keep_last_newline=False) == "Say hi"


def test_dev_null_is_nothing(stdin: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    stdin(os.open(os.devnull, os.O_RDONLY))
    assert read_prompt(["Say hi"], keep_last_newline=False) == "Say hi"
    assert capsys.readouterr().err == ""


def test_no_standard_input_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert read_prompt(["Say hi"], keep_last_newline=False) == "Say hi"
    with pytest.raises(click.UsageError, match="closed"):
        read_prompt(["-"], keep_last_newline=False)


@pytest.mark.parametrize(
    ("data", "encoding", "text"),
    [
        ("Grüße 🙂".encode(), "utf-8", "Grüße 🙂"),
        ("Grüße 🙂".encode(), "latin-1", "Grüße 🙂"),
        ("Grüße".encode("latin-1"), "latin-1", "Grüße"),
        ("Grüße".encode("latin-1"), "utf-8", "Gr\ufffd\ufffde"),
        (b"\xef\xbb\xbfHi", "utf-8", "Hi"),
        (b"a\0b", "utf-8", "a\0b"),
    ],
)
def test_any_bytes_are_a_prompt(
    stdin: Callable[..., None], tmp_path: Path, data: bytes, encoding: str, text: str
) -> None:
    stdin(a_file(tmp_path / "in", data), encoding)
    assert read_prompt([], keep_last_newline=False) == text


def test_an_endless_device_is_refused(stdin: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_input, "MAX_STDIN_BYTES", 2**20)
    stdin(os.open("/dev/zero", os.O_RDONLY))
    with pytest.raises(click.UsageError, match="longer than 1 MiB"):
        read_prompt([], keep_last_newline=False)
