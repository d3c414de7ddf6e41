"""`mlxk ps --watch`: like `watch mlxk ps` in a terminal; in a file or a pipe one table, or one envelope,
after the other."""

from __future__ import annotations

import sys
import time

from mlxk.cli.live_screen import LiveScreen, ScreenEndedError, end_as_ordered
from mlxk.cli.output import note, print_compact, printable, shorten, terminal_width, width
from mlxk.cli.pool_watch import Look, Watcher, looks
from mlxk.cli.ps import format_pool
from mlxk.cli.status_line import is_lively
from mlxk.cli.watching import check_reader, print_text
from mlxk.config.units import format_time

TICK_S = 1.0
QUIT = ("q", "Q", "\x04")


def watch_pool(interval_s: float, *, wide: bool, as_json: bool) -> int:
    """Returns the exit code. Raises CliError if there is no server to begin with."""
    if as_json or not is_lively(sys.stdout):
        roll = _Roll(wide=wide, as_json=as_json)
        for one in looks(interval_s, _wait_for_more):
            roll.add(one)
        return 0
    try:
        with Watcher(interval_s) as watcher:
            watcher.wait_for_first()
            with LiveScreen() as screen:
                while True:
                    if (look := watcher.take()) is not None:
                        columns = screen.size().columns
                        screen.draw(page(look, interval_s, columns, wide=wide))
                    if screen.wait(TICK_S, watcher.news) in QUIT:
                        return 0
    except ScreenEndedError as ended:
        return end_as_ordered(ended.number)


def page(look: Look, interval_s: float, columns: int, *, wide: bool) -> list[str]:
    title, clock = f"Every {interval_s:g}s: mlxk ps", format_time(look.at)
    gap = columns - width(title) - width(clock)
    lines = [f"{title}{' ' * gap}{clock}" if gap > 1 else shorten(clock, columns), ""]
    if (trouble := look.trouble(interval_s)) is not None:
        import textwrap

        lines += [*textwrap.wrap(printable(trouble), max(columns, 8)), ""]
    if look.data is not None:
        lines += format_pool(look.data, wide=wide, fit=columns).splitlines()
    return lines


class _Roll:
    """Tables or envelopes, one below the other. A server that is away is told once."""

    def __init__(self, *, wide: bool, as_json: bool) -> None:
        self._wide, self._as_json = wide, as_json
        self._is_away = False

    def add(self, look: Look) -> None:
        was_away, self._is_away = self._is_away, look.error is not None
        if was_away and self._is_away:
            return
        if self._as_json:
            print_compact("ps", look.data, error=look.error)
        elif look.data is None:
            note(printable(look.trouble(0) or ""))
        else:
            if was_away:
                note("the server is back")
            table = format_pool(look.data, wide=self._wide, fit=terminal_width())
            print_text(f"{format_time(look.at)}\n{table}\n")


def _wait_for_more(seconds: float) -> bool:
    """Raises BrokenPipeError when nobody reads any more."""
    deadline = time.monotonic() + seconds
    while (left_s := deadline - time.monotonic()) > 0:
        check_reader()
        time.sleep(min(0.1, left_s))
    check_reader()
    return False
