"""A screen that is drawn again and again, and gives the terminal back as it was: however it ends.

It is the terminal's alternate screen, as of `less` and `watch`. No signal interrupts what is being written:
all of them wait until the next `wait`, a second one of the same kind ends the process at once.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
"""The other screen, no cursor, no line that goes on in the next."""
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)
"""Arrows and function keys: their letters are no keys."""
LEAVE_LIMIT_S = 1.0
WRITE_BYTES = 256
"""A terminal that can be written to takes so much without a wait."""
WRITE_POLL_S = 0.2
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class ScreenEndedError(Exception):
    """A signal has come, or the terminal has gone."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


class LiveScreen:
    """Use as a context manager. Keys come only from a terminal at stdin; none is needed."""

    def __init__(self) -> None:
        self._keyboard = sys.stdin.fileno() if _is_terminal(sys.stdin) else None
        self._modes: list[Any] | None = None
        self._keys = ""
        self._came: list[signal.Signals] = []
        self._before: dict[signal.Signals, Any] = {}
        self._wakes, self._wake = os.pipe()
        for end in (self._wakes, self._wake):
            os.set_blocking(end, False)

    def size(self) -> os.terminal_size:
        """Columns and lines, as they are now."""
        with contextlib.suppress(OSError, ValueError):
            size = os.get_terminal_size(sys.stdout.fileno())
            if size.columns and size.lines:
                return size
        return os.terminal_size((80, 24))

    def draw(self, lines: Sequence[str]) -> None:
        """In place of what is there. Each line must fit; those beyond the last row are left out."""
        shown = lines[: self.size().lines]
        text = "\r\n".join(f"{line}\x1b[0m\x1b[K" for line in shown)
        self._write(f"\x1b[H{text}\x1b[J")

    def wait(self, timeout_s: float | None, *others: int) -> str:
        """Until a key (which it returns), something to be read from one of `others`, another size, or the
        timeout ("" then). Raises ScreenEndedError when it is over."""
        if self._keys:
            timeout_s = 0  # typed faster than drawn
        sources = [self._wakes, *others, *([] if self._keyboard is None else [self._keyboard])]
        ready, _, _ = select.select(sources, [], [], timeout_s)
        if self._wakes in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakes, 4096)
        while self._came:
            number = self._came.pop(0)
            if number == signal.SIGTSTP:
                self._pause()
            elif number != signal.SIGWINCH:
                raise ScreenEndedError(number)
        if self._keyboard is None or self._keyboard not in ready:
            return self._next_key()
        return self._read_key(self._keyboard)

    def _read_key(self, keyboard: int) -> str:
        try:
            data = os.read(keyboard, 256)
        except OSError:  # its window has been closed, and the signal of that did not reach us
            data = b""
        if not data:
            raise ScreenEndedError(signal.SIGHUP)
        self._keys += ESCAPES.sub(b"", data).decode("ascii", "replace")
        return self._next_key()

    def _next_key(self) -> str:
        key, self._keys = self._keys[:1], self._keys[1:]
        return key

    # ------------------------------------------------------------------ there and back

    def __enter__(self) -> LiveScreen:
        sys.stdout.flush()
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (*ENDS, signal.SIGTSTP, signal.SIGWINCH):
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:  # nohup, or the background of a script
                self._before[number] = handler
                signal.signal(number, self._on_signal)
        try:
            self._take_terminal()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with _signals_held():
            self._give_back()
            signal.set_wakeup_fd(-1)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before.clear()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        came = signal.Signals(number)
        if came in ENDS and came in self._came:  # the terminal takes nothing, so nobody has looked
            signal.signal(came, signal.SIG_DFL)
            os.kill(os.getpid(), came)
        self._came.append(came)

    def _pause(self) -> None:
        """Ctrl-Z: the shell gets its screen, until it says `fg`."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._on_signal)
        self._take_terminal()

    def _take_terminal(self) -> None:
        if self._keyboard is not None:
            import termios
            import tty

            self._modes = termios.tcgetattr(self._keyboard)
            tty.setcbreak(self._keyboard, termios.TCSANOW)  # no echo; Ctrl-C and Ctrl-Z stay signals
        self._write(ENTER)

    def _give_back(self) -> None:
        import termios

        with contextlib.suppress(termios.error):  # go on after a Ctrl-S; Linux wants both
            termios.tcflow(sys.stdout.fileno(), termios.TCOOFF)
            termios.tcflow(sys.stdout.fileno(), termios.TCOON)
        with contextlib.suppress(ScreenEndedError):  # a terminal that is gone needs nothing
            self._write(LEAVE, LEAVE_LIMIT_S)
        if self._modes is not None and self._keyboard is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keyboard, termios.TCSANOW, self._modes)
            self._modes = None

    def _write(self, text: str, limit_s: float = math.inf) -> None:
        """Past the buffer of sys.stdout: what a terminal has not taken is not tried again. One that takes
        nothing (Ctrl-S, a frozen window) keeps nobody from ending us: the rest is left out then."""
        data = text.encode(sys.stdout.encoding or "utf-8", "replace")
        screen, deadline = sys.stdout.fileno(), time.monotonic() + limit_s
        try:
            while data and (left_s := deadline - time.monotonic()) > 0:
                _, ready, _ = select.select([], [screen], [], min(WRITE_POLL_S, left_s))
                if ready:
                    data = data[os.write(screen, data[:WRITE_BYTES]) :]
                elif limit_s == math.inf and any(number in ENDS for number in self._came):
                    return
        except OSError as error:
            raise ScreenEndedError(signal.SIGHUP) from error


def end_as_ordered(number: signal.Signals) -> int:
    """The exit code after a ScreenEndedError: 130 for Ctrl-C. Any other signal ends the process as it would
    have without us, so that whoever sent it sees what it expects."""
    if number is not signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return 128 + number


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*ENDS, signal.SIGTSTP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream is not None and stream.isatty())
    except (OSError, ValueError):
        return False
