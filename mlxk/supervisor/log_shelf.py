"""Where the workers' output goes: one rotating log per model, and the note of its last crash.

Nothing here waits for a disk: all writing is a `LogWriter`'s.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mlxk.config import log_files
from mlxk.config.crash_file import Crash, write_crash
from mlxk.config.log_writer import LogWriter, Outlet, RotatingFile

log = logging.getLogger("mlxk.logs")

CLOSE_S = 1.0
"""How long the end of the front may wait for a slow disk."""


class ModelLog:
    """One model's file, to which its workers append one after the other, or two at a time in a restart."""

    def __init__(self, writer: LogWriter, path: Path) -> None:
        self._outlet = Outlet(writer, RotatingFile(path, on_trouble=log.warning).write)
        self._last_author = ""
        self._in_line = False

    def put(self, author: str, data: bytes) -> None:
        """By the pump's thread only. Marks where another worker's output goes on."""
        head = b""
        if self._last_author != author:
            head = b"\n" * self._in_line
            if self._last_author:
                head += f"--- {author}:\n".encode()
            self._last_author = author
        self._in_line = not data.endswith(b"\n")
        self._outlet.put(head + data)

    def end(self, author: str) -> None:
        """This worker prints nothing more: what comes next is marked by its own first line."""
        if self._last_author == author:
            if self._in_line:
                self._outlet.put(b"\n")
                self._in_line = False
            self._last_author = ""


class LogShelf:
    """All models' logs in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = LogWriter("worker-log-files")
        self._logs: dict[str | None, ModelLog] = {}
        self._aside = Outlet(self._writer, lambda _: log_files.prune(folder))
        self._aside.put(b"\n")  # files that are too old go at the start of the server

    def log_of(self, model: str | None) -> ModelLog:
        """By the pump's thread. None: of workers that never got a model."""
        if model not in self._logs:
            folder = self.folder
            path = log_files.spare_log(folder) if model is None else log_files.model_log(folder, model)
            self._logs[model] = ModelLog(self._writer, path)
        return self._logs[model]

    def note_crash(self, crash: Crash) -> None:
        """By any thread."""

        def write(_: bytes) -> None:
            try:
                write_crash(self.folder, crash)
            except OSError as error:
                log.warning("the crash of %s could not be noted: %s", crash["model"], error)

        Outlet(self._writer, write).put(b"\n")

    def flush(self, timeout_s: float) -> bool:
        return self._writer.flush(timeout_s)

    def close(self) -> None:
        self._writer.close(CLOSE_S)
