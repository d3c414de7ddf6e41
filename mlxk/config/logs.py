"""Logging to stderr: lines for people, or one JSON object a line."""

from __future__ import annotations

import json as json_module
import logging
import re
import sys
import time
from typing import TextIO

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        # A message can quote what a client sent: that must neither forge a line nor control the terminal.
        return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text).replace("\n", "\n    ")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json_module.dumps(line)


class _StderrHandler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        # stderr may be a pipe whose reader has left; a server must not care, and logging would print a
        # traceback for every line to that same pipe.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def configure_logging(level: str, json: bool) -> None:
    """Sends all logging from `level` ("debug" ... "critical") up to stderr. May be called again (SIGHUP)."""
    handler = _StderrHandler(sys.stderr)
    text = _TextFormatter("%(asctime)s %(levelname)-5s %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(_JsonFormatter() if json else text)
    root = logging.getLogger()
    root.setLevel(level.upper())
    for old in [one for one in root.handlers if isinstance(one, _StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
