from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from mlxk.config.logs import configure_logging


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, given back as it was."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield root
    root.setLevel(level)
    root.handlers[:] = handlers


def test_text_lines_carry_time_and_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=False)
    logging.getLogger("mlxk.test").warning("model %s is gone", "tiny")
    logging.getLogger("mlxk.test").debug("not shown")
    out, err = capsys.readouterr()
    assert out == ""
    stamp, rest = err.rstrip("\n").split(" ", 1)
    assert len(stamp) == 8
    assert stamp.count(":") == 2
    assert rest == "WARNING model tiny is gone"


def test_a_message_can_neither_forge_a_line_nor_reach_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info", json=False)
    logging.getLogger().info("name: %s", "x\n12:00:00 INFO  all is well \x1b[2J")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "    12:00:00 INFO  all is well \\x1b[2J"


def test_json_lines_are_one_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", json=True)
    try:
        raise RuntimeError("broken\nin two")
    except RuntimeError:
        logging.getLogger("mlxk.test").exception("line one\nline two")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    line: dict[str, Any] = json.loads(lines[0])
    assert (line["level"], line["logger"], line["message"]) == ("error", "mlxk.test", "line one\nline two")
    assert line["time"].endswith("Z")
    assert "RuntimeError: broken" in line["exception"]


def test_configuring_again_replaces_the_handler(
    capsys: pytest.CaptureFixture[str], root_logger: logging.Logger
) -> None:
    before = len(root_logger.handlers)
    for level in ("info", "debug", "error"):
        configure_logging(level, json=False)
    assert len(root_logger.handlers) == before + 1
    logging.getLogger().warning("below error")
    logging.getLogger().error("shown once")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_reader_that_left_is_no_reason_for_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=False)
    handler = logging.getLogger().handlers[-1]
    try:
        raise BrokenPipeError
    except BrokenPipeError:
        handler.handleError(logging.makeLogRecord({"msg": "x"}))
    assert capsys.readouterr().err == ""
