"""A line that says what is being waited for, on a terminal only, and goes away when it is over."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import TracebackType
from typing import TextIO

DELAY_S = 0.3
"""What is over sooner needs no words."""
TICK_S = 1.0


class StatusLine:
    """`with StatusLine("loading tiny"):` shows `loading tiny (3 s)` on stderr until `end()`, or the end.

    A thread draws it: the waiting itself blocks. `end()` returns when the line is gone, so what is written
    after it stands on a clean line.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> StatusLine:
        if is_lively(sys.stderr):
            self._thread = threading.Thread(target=self._draw, name="status line", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    @property
    def is_shown(self) -> bool:
        """Whether there is a terminal to show it."""
        return self._thread is not None

    def change(self, text: str) -> None:
        self._text = text

    def end(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _draw(self) -> None:
        began = time.monotonic()
        wait_s, drawn = DELAY_S, False
        while not self._over.wait(wait_s):
            waited_s = int(time.monotonic() - began)
            drawn = _write(f"\r{self._fit(f'{self._text} ({waited_s} s)' if waited_s else self._text)}\x1b[K")
            wait_s = TICK_S
        if drawn:
            _write("\r\x1b[K")

    def _fit(self, text: str) -> str:
        """A line that wraps could not be taken back."""
        from mlxk.cli.output import printable

        try:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
        except OSError:
            columns = 80
        return printable(text)[: max(1, columns - 1)]


def is_lively(stream: TextIO | None) -> bool:
    """Whether it is a terminal on which a line can be taken back."""
    is_dumb = os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")
    return stream is not None and stream.isatty() and not is_dumb


def _write(text: str) -> bool:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, UnicodeEncodeError):  # a terminal that is gone; nobody waits for this line
        return False
    return True
