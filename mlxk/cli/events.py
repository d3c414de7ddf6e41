"""`mlxk events`: what happens in the running server, as it happens."""

from __future__ import annotations

from typing import Any

import click

from mlxk.cli.control import server
from mlxk.cli.output import note, printable
from mlxk.cli.watching import check_reader, print_line, print_text

EXAMPLES = """\b
Examples:
  mlxk events
  mlxk events --no-follow -n 50
  mlxk events --json | jq -c 'select(.kind == "died")'"""


@click.command("events", short_help="Show what happens: loads, evictions, crashes.", epilog=EXAMPLES)
@click.option(
    "-n", "--recent", type=click.IntRange(0, 256), default=10, show_default=True, help="Past ones first."
)
@click.option("--no-follow", is_flag=True, help="Only the past ones.")
@click.option(
    "--json", "as_json_here", is_flag=True, help="One JSON object a line; an error is one envelope."
)
@click.pass_context
def command(context: click.Context, recent: int, no_follow: bool, as_json_here: bool) -> None:
    """Show what happens in the server, until Ctrl-C or the server's end (exit 0).

    Times are UTC. With --json `at` is the time, `time` the same in Unix seconds, and sizes are bytes.
    """
    from mlxk.config.units import format_time
    from mlxk.supervisor.control_client import ServerNotRunningError

    as_json = as_json_here or bool(context.find_root().params.get("as_json"))
    ended = False
    with server() as client:
        replies = client.stream("events", {"recent": recent, "follow": not no_follow})
        connected = False
        try:
            for reply in replies:
                if reply is None:
                    check_reader()
                    continue
                connected = True
                for event in reply.get("events", []):
                    if as_json:
                        print_line({**event, "at": format_time(event.get("time", 0), digits=3)})
                    else:
                        print_text(format_event(event))
                ended = bool(reply.get("ended"))
        except ServerNotRunningError:
            if not connected:
                raise
            ended = True
        finally:
            replies.close()
    if ended:
        note("the server has ended")


def format_event(event: dict[str, Any]) -> str:
    """A line for people."""
    from mlxk.config.units import format_time

    return f"{format_time(event.get('time', 0))}  {describe_event(event)}"


def describe_event(event: dict[str, Any]) -> str:
    """Whom it is about, and what it says."""
    return printable(f"{event.get('model') or 'server'}  {_what(event)}")


CHANGES = ("applied", "next_load", "needs_restart", "models", "models_to_restart", "models_to_load")


def _what(event: dict[str, Any]) -> str:
    from mlxk.config.units import format_size

    def size(name: str) -> str:
        return format_size(int(event.get(name) or 0))

    kind = str(event.get("kind"))
    match kind:
        case "state":
            return f"is {event.get('state')}"
        case "loaded":
            return (
                f"loaded in {event.get('load_s', 0):.1f} s on {event.get('worker')}, {size('memory_bytes')}"
            )
        case "load_progress":
            percent = 100 * (event.get("done_bytes") or 0) / max(1, event.get("total_bytes") or 1)
            return f"loading, {percent:.0f} % of {size('total_bytes')}"
        case "trimmed":
            return f"prefix cache trimmed to {size('max_bytes')}"
        case "evicted":
            why = (str(event.get(name)) for name in ("reason", "room_for") if event.get(name))
            return f"evicted ({' for '.join(why)})"
        case "stopped":
            return f"stopped, {size('freed_bytes')} freed"
        case "died":
            return f"crashed on {event.get('worker')}: {event.get('exit')}"
        case "replaced":
            return f"restarted: {event.get('worker')} in place of {event.get('old_worker')}"
        case "reloaded" if event.get("error"):
            return str(event["error"])
        case "reloaded":
            changed = [
                f"{name.replace('_', ' ')}: {', '.join(event[name])}" for name in CHANGES if event.get(name)
            ]
            return f"configuration reloaded; {'; '.join(changed) or 'nothing has changed'}"
        case "server":
            return f"is {event.get('state')}"
        case "lost":
            return f"({event.get('count')} events were missed: they came faster than they were read)"
    facts = {name: value for name, value in event.items() if name not in ("n", "time", "kind", "model")}
    return " ".join([kind, *(f"{name}={value}" for name, value in facts.items())])
