"""The server's own log: lines for people or one JSON object a line, to stderr and to a rotating file."""

from __future__ import annotations

import contextlib
import json as json_module
import logging
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from mlxk.config.log_writer import LogWriter, Outlet, RotatingFile
from mlxk.config.units import format_time

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class _TextFormatter(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return format_time(record.created)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        # A message can quote what a client sent: that must neither forge a line nor control the terminal.
        return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text).replace("\n", "\n    ")


class _JsonFormatter(logging.Formatter):
    """A line's facts are fields of their own where a record has them (`extra={"facts": {...}}`; a "message"
    among them takes the place of the text)."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": format_time(record.created, digits=3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(getattr(record, "facts", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json_module.dumps(line)


class _StderrHandler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        # stderr may be a pipe whose reader has left; a server must not care, and logging would print a
        # traceback for every line to that same pipe.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _PatientHandler(logging.Handler):
    """Hands finished lines to a thread: no request waits for a disk, or for whoever reads our stderr."""

    def __init__(self, name: str, write: Callable[[bytes], object]) -> None:
        super().__init__()
        self.writer = LogWriter(name)
        self._outlet = Outlet(self.writer, write)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._outlet.put(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)


_patient: list[_PatientHandler] = []
"""A server's. Empty: lines go to stderr at once."""


def configure_logging(level: str, json: bool) -> None:
    """Sends all logging from `level` ("debug" ... "critical") up to stderr, or where `log_patiently` says.
    May be called again (a reload)."""
    handlers: list[logging.Handler] = [*_patient] or [_StderrHandler(sys.stderr)]
    text = _TextFormatter("%(asctime)s %(levelname)-5s %(message)s")
    root = logging.getLogger()
    root.setLevel(level.upper())
    for old in [one for one in root.handlers if isinstance(one, _StderrHandler | _PatientHandler)]:
        root.removeHandler(old)
    for handler in handlers:
        handler.setFormatter(_JsonFormatter() if json else text)
        root.addHandler(handler)


def log_patiently(*, stderr: bool, file: Path | None) -> None:
    """For a server, before `configure_logging`: its lines go to stderr, to a rotating file, or to both, by
    a thread for each. A terminal that was stopped then keeps neither requests nor the file waiting."""
    _patient.clear()
    if stderr:
        _patient.append(_PatientHandler("log-stderr", write_to_stderr))
    if file is not None:
        _patient.append(_PatientHandler("log-file", RotatingFile(file, on_trouble=_complain).write))


def flush_logs(timeout_s: float) -> None:
    """Before the process ends by `os._exit` or becomes another: what can still be written in the time."""
    deadline = time.monotonic() + timeout_s
    for handler in _patient:
        handler.writer.flush(max(0.0, deadline - time.monotonic()))


def stop_logging(timeout_s: float = 1.0) -> None:
    """Take back `log_patiently`, and end its threads."""
    flush_logs(timeout_s)
    for handler in _patient:
        logging.getLogger().removeHandler(handler)
        handler.writer.close(timeout_s)
    _patient.clear()


def write_to_stderr(data: bytes) -> None:
    """It may be a pipe whose reader has left, or a full disk: a server does not care."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(data.decode("utf-8", "replace"))
        sys.stderr.flush()


def _complain(text: str) -> None:
    write_to_stderr(f"mlxk: {text}\n".encode())
