from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxk.config import log_writer, logs
from mlxk.config.logs import configure_logging, flush_logs, log_patiently, stop_logging


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, given back as it was."""
    stop_logging()  # what an earlier test of `mlxk serve` in this process has begun
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield root
    stop_logging()
    root.setLevel(level)
    root.handlers[:] = handlers


def test_text_lines_carry_time_and_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=False)
    logging.getLogger("mlxk.test").warning("model %s is gone", "tiny")
    logging.getLogger("mlxk.test").debug("not shown")
    out, err = capsys.readouterr()
    assert out == ""
    stamp, rest = err.rstrip("\n").split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stamp)
    assert rest == "WARNING model tiny is gone"


def test_a_message_can_neither_forge_a_line_nor_reach_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info", json=False)
    logging.getLogger().info("name: %s", "x\n12:00:00 INFO  all is well \x1b[2J")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "    12:00:00 INFO  all is well \\x1b[2J"


def test_facts_are_fields_of_a_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"message": "GET /x 200", "status": 200, "finish": "a\n\x1b[2Jb"}
    configure_logging("info", json=True)
    logging.getLogger("mlxk.test").info("text for people", extra={"facts": facts})
    configure_logging("info", json=False)
    logging.getLogger("mlxk.test").info("text for people", extra={"facts": facts})
    json_line, text_line = capsys.readouterr().err.splitlines()
    line: dict[str, Any] = json.loads(json_line)
    assert set(line) == {"time", "level", "logger", "message", "status", "finish"}
    assert (line["message"], line["status"], line["finish"]) == ("GET /x 200", 200, "a\n\x1b[2Jb")
    assert text_line.endswith("INFO  text for people")


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


# -------------------------------------------------------------------- a server's own log


def test_a_servers_log_goes_to_its_file_and_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_patiently(stderr=True, file=tmp_path / "logs" / "server.log")
    configure_logging("info", json=False)
    logging.getLogger("mlxk.test").info("here \x1b[2J")
    flush_logs(10)
    line = (tmp_path / "logs" / "server.log").read_text()
    assert line == capsys.readouterr().err
    assert line.endswith(" INFO  here \\x1b[2J\n")


def test_a_servers_log_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxk.config.log_files.FILE_BYTES", 2000)
    log_patiently(stderr=False, file=tmp_path / "server.log")
    configure_logging("info", json=True)
    for number in range(200):
        logging.getLogger("mlxk.test").info("line %d", number)
        flush_logs(10)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["server.log", "server.log.1", "server.log.2"]
    assert json.loads((tmp_path / "server.log").read_text().splitlines()[-1])["message"] == "line 199"


def test_a_reload_changes_level_and_form_and_doubles_nothing(tmp_path: Path) -> None:
    log_patiently(stderr=False, file=tmp_path / "server.log")
    configure_logging("info", json=False)
    configure_logging("debug", json=True)
    logging.getLogger("mlxk.test").debug("one")
    flush_logs(10)
    assert [json.loads(line)["message"] for line in (tmp_path / "server.log").read_text().splitlines()] == [
        "one"
    ]


def test_a_reader_of_stderr_that_has_stopped_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mlxk serve | less`: the pipe is full, and the server must go on."""
    read_end, write_end = os.pipe()
    monkeypatch.setattr(log_writer, "BACKLOG_BYTES", 100_000)
    with os.fdopen(write_end, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", pipe)
        log_patiently(stderr=True, file=tmp_path / "server.log")
        configure_logging("info", json=False)
        for number in range(5000):  # 10 times what a pipe holds
            logging.getLogger("mlxk.test").info("%d %s", number, "x" * 100)
            if number % 500 == 0:
                file_writer().flush(10)
        assert file_writer().flush(10)
        assert "4999" in (tmp_path / "server.log").read_text()[-200:]
        drained = threading.Thread(target=drain, args=(read_end,))
        drained.start()
        stop_logging(10)
    drained.join(10)
    os.close(read_end)


def file_writer() -> log_writer.LogWriter:
    return logs._patient[1].writer


def drain(descriptor: int) -> None:
    while os.read(descriptor, 65536):
        pass
