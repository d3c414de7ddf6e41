"""A real terminal for a command: a pseudo terminal (pexpect), and what its screen shows (pyte)."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import pexpect
import pyte

TIMEOUT_S = 60.0


class Terminal:
    """`with Terminal(["run", "tiny"], env) as terminal:` runs `mlxk run tiny` in a terminal of its own.

    Everything waits for what the screen shows; nothing sleeps.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str],
        *,
        columns: int = 80,
        rows: int = 50,
        program: Sequence[str] | None = None,
    ) -> None:
        command = list(program or [sys.executable, "-P", "-m", "mlxk"]) + list(arguments)
        self.raw = b""
        """All bytes that the command has written."""
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self._shown: dict[int, str] = {}
        """The screen's rows as they were last looked at; `screen.dirty` says which have changed."""
        self._above: list[tuple[object, str]] = []
        """What has scrolled out of the screen: it changes no more."""
        self.child = pexpect.spawn(
            command[0],
            command[1:],
            env={"TERM": "xterm-256color", **env},
            dimensions=(rows, columns),
            timeout=TIMEOUT_S,
        )
        self.child.delaybeforesend = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.child.isalive():
            self.child.terminate(force=True)
        self.child.close()

    # ---------------------------------------------------------------------- what it shows

    @property
    def pid(self) -> int:
        return int(self.child.pid)

    def lines(self) -> list[str]:
        """What is on the screen, and what has scrolled out of it, without the empty lines at the end."""
        for y in self.screen.dirty:  # an accent goes to the last cell of the row above, and does not say so
            self._shown.pop(y, None)
            self._shown.pop(y - 1, None)
        self.screen.dirty.clear()
        for y in range(self.screen.lines):
            if y not in self._shown:
                self._shown[y] = self._row(self.screen.buffer[y])
        lines = [*self._history(), *(self._shown[y] for y in range(self.screen.lines))]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _history(self) -> list[str]:
        rows = list(self.screen.history.top)
        known = len(self._above)
        if known > len(rows) or (known and self._above[-1][0] is not rows[known - 1]):
            self._above.clear()
        self._above += [(row, self._row(row)) for row in rows[len(self._above) :]]
        return [text for _, text in self._above]

    def _row(self, row: Mapping[int, pyte.screens.Char]) -> str:
        """Only what was written is looked at: most of most rows is empty. (A wide character is followed by a
        cell without any data.)"""
        end = min(self.screen.columns, max(row, default=-1) + 1)
        return "".join(row[x].data for x in range(end)).rstrip()

    def text(self) -> str:
        return "\n".join(self.lines())

    def wait_for(self, condition: Callable[[str], object], timeout_s: float = TIMEOUT_S) -> str:
        """The text on the screen as soon as `condition` holds for it."""
        deadline = time.monotonic() + timeout_s
        while not condition(text := self.text()):
            self._read(deadline)
        return text

    def wait_text(self, pattern: str, timeout_s: float = TIMEOUT_S) -> str:
        """The text on the screen as soon as the regular expression is found in it."""
        return self.wait_for(lambda text: re.search(pattern, text), timeout_s)

    def wait_last_line(self, expected: str, timeout_s: float = TIMEOUT_S) -> str:
        """The text on the screen as soon as its last line is `expected`."""
        return self.wait_for(lambda text: text.rpartition("\n")[2] == expected, timeout_s)

    def _read(self, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        assert left_s > 0, f"the terminal does not show it:\n{self.text()}"
        try:
            data = self.child.read_nonblocking(65536, timeout=left_s)
        except pexpect.TIMEOUT:
            return
        except pexpect.EOF:
            raise AssertionError(f"the command has ended:\n{self.text()}") from None
        self.raw += data
        self._stream.feed(data)

    # ------------------------------------------------------------------------- what is done

    def type(self, text: str) -> None:
        self.child.send(text)

    def enter(self, text: str = "") -> None:
        self.child.send(f"{text}\r")

    def paste(self, text: str) -> None:
        """As a terminal pastes, once the program has asked for the brackets around it."""
        self.child.send(f"\x1b[200~{text}\x1b[201~")

    def press(self, letter: str) -> None:
        """Ctrl and a letter."""
        self.child.sendcontrol(letter)

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)
        self._shown.clear()
        self._above.clear()
        self.child.setwinsize(rows, columns)

    def hang_up(self) -> None:
        """Close the terminal's window."""
        self.child.ptyproc.fileobj.close()

    def wait_end(self, timeout_s: float = TIMEOUT_S) -> int:
        """The exit code (negative: the signal that ended it)."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._read(deadline)
            except AssertionError as error:
                if "has ended" not in str(error):
                    raise
                break
        self.child.wait()
        return -self.child.signalstatus if self.child.signalstatus else int(self.child.exitstatus)


def ask(terminal: Terminal, question: str) -> str:
    """Types `question` at the prompt of `mlxk run`, and gives what came between it and the next prompt."""
    line = f">>> {question}\n"
    before = terminal.text().count(line)
    terminal.enter(question)
    terminal.wait_for(lambda text: text.count(line) > before)
    text = terminal.wait_last_line(">>>")
    return text.rpartition(line)[2].removesuffix(">>>")


def environment(**more: str) -> dict[str, str]:
    """This process's, and more."""
    return {**os.environ, **more}
