"""`mlxk top`: the server on a live screen."""

from __future__ import annotations

import sys

import click

from mlxk.cli.options import interval_option, json_option

INTERVAL_S = 1.0
TICK_S = 1.0
QUIT = ("q", "Q", "\x04")
RECENT_EVENTS = 64
"""Asked for; a screen shows fewer, and none of a load's progress."""

EXAMPLES = """\b
Examples:
  mlxk top
  mlxk top -n 5s                   a look each 5 seconds
  mlxk ps --watch --json           the same facts for a script"""


@click.command("top", short_help="Show the server on a live screen.", epilog=EXAMPLES)
@interval_option("How often it looks.  [default: 1s]")
@json_option
@click.pass_context
def command(context: click.Context, interval_s: float | None, as_json: bool) -> None:
    """Show models, memory, speed, requests and what happens, until q or Ctrl-C.

    HITS is the share of the prompts for which the prefix cache had something. Keys: q quits, s sorts
    by name, memory or speed, w shows more. When the server ends, the screen waits for it to come back.
    """
    from mlxk.cli.status_line import is_lively

    if as_json or not is_lively(sys.stdout):
        text = "`mlxk top` needs a terminal; in a script or a pipe use: mlxk ps --watch --json"
        raise click.UsageError(text)
    context.exit(_show(interval_s or INTERVAL_S))


def _show(interval_s: float) -> int:
    """Returns the exit code. Raises CliError if there is no server to begin with."""
    from mlxk.cli.interrupts import interrupt_later

    with interrupt_later():
        from mlxk.cli.live_screen import LiveScreen, ScreenEndedError, end_as_ordered
        from mlxk.cli.pool_watch import Watcher
        from mlxk.cli.top_page import Choice, page

    choice = Choice()
    try:
        with Watcher(interval_s, recent_events=RECENT_EVENTS) as watcher:
            watcher.wait_for_first()
            with LiveScreen() as screen:
                while True:
                    if (look := watcher.take()) is not None:
                        size = screen.size()
                        screen.draw(page(look, interval_s, size.columns, size.lines, choice))
                    match screen.wait(TICK_S, watcher.news):
                        case "s":
                            choice = choice.with_next_order()
                        case "w":
                            choice = choice.with_other_width()
                        case key if key in QUIT:
                            return 0
    except ScreenEndedError as ended:
        return end_as_ordered(ended.number)
