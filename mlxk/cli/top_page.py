"""What `mlxk top` shows: lines for a terminal of that size. The one module of it that needs rich."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mlxk.cli.events import describe_event
from mlxk.cli.output import NOTHING, can_show, printable, shorten, width
from mlxk.cli.pool_watch import Look
from mlxk.cli.ps import duration, requests, size, speed
from mlxk.config.units import format_time

ORDERS = ("name", "memory", "speed")
STATES = {"ready": "green", "loading": "yellow", "stopping": "yellow", "backoff": "red", "failed": "red"}
KINDS = {"died": "red", "evicted": "yellow", "loaded": "green", "lost": "red"}
LEAVE_OUT = ("CACHE", "UNTIL", "HITS", "RESTARTS", "UPTIME", "PID", "TOK/S", "MEMORY", "REQS", "STATE")
"""In a narrow terminal, in this order."""
RIGHT = ("CACHE", "HITS", "REQS", "TOK/S", "UNTIL", "PID", "UPTIME", "RESTARTS")
LEAST_NAME_CELLS = 24
LEAST_ERROR_CELLS = 10
BAR_CELLS = 10
LEAST_EVENTS = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """What the keys have chosen."""

    order: str = ORDERS[0]
    wide: bool = False

    def with_next_order(self) -> Choice:
        return replace(self, order=ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)])

    def with_other_width(self) -> Choice:
        return replace(self, wide=not self.wide)


def page(look: Look, interval_s: float, columns: int, lines: int, choice: Choice) -> list[str]:
    """At most so many lines of at most so many cells, with colors where the terminal has them."""
    trouble = look.trouble(interval_s)
    head = _head(look, columns)
    if trouble is not None:
        head.append(Text(shorten(printable(trouble), columns), style="bold red"))
    head.append(Text())
    models = _sorted(look.data["models"], choice.order) if look.data else []
    n_rows = max(1, lines - len(head) - (LEAST_EVENTS + 4))
    body: list[RenderableType] = []
    if look.data:
        limit = int(look.data["server"].get("memory_limit_bytes") or 0)
        body.append(_table(models[:n_rows], limit, columns, wide=choice.wide))
        if not models:
            body.append(Text(shorten("no model is loaded; mlxk load MODEL", columns), style="dim"))
        if len(models) > n_rows:
            body.append(Text(shorten(f"and {len(models) - n_rows} more", columns), style="dim"))
    top = _render([*head, *body], columns)
    foot = _render([Text(shorten(f"q quit  s sort ({choice.order})  w wide", columns), style="dim")], columns)
    room = lines - len(top) - len(foot) - 2
    events = _render(_events(look.events, columns, room), columns) if room > 0 else []
    between = [""] * max(0, lines - len(top) - len(events) - len(foot) - 1)
    return [*top, "", *events, *between, *foot][:lines] if lines > len(top) + 1 else top[:lines]


def _render(parts: Sequence[RenderableType], columns: int) -> list[str]:
    if not parts:
        return []
    out = io.StringIO()
    options: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    console = Console(file=out, force_terminal=True, width=columns, legacy_windows=False, **options)
    for part in parts:
        console.print(part, no_wrap=True, overflow="crop", crop=True)
    return out.getvalue().splitlines()


# ----------------------------------------------------------------------------- the head


def _head(look: Look, columns: int) -> list[Text]:
    clock = format_time(look.at)
    if look.data is None:
        return [_ends("mlxk top", clock, columns)]
    server, models = look.data["server"], look.data["models"]
    facts = [
        f"mlxk {server.get('version')}",
        str(server.get("url")),
        f"pid {server.get('pid')}",
        f"up {duration(server.get('uptime_s'))}",
    ]
    used = sum(model.get("memory_bytes") or 0 for model in models)
    limit = int(server.get("memory_limit_bytes") or 0)
    running = sum(model.get("in_flight") or 0 for model in models)
    queued = sum(model.get("queued") or 0 for model in models)
    tokens = sum(model.get("tokens_per_s") or 0 for model in models)
    memory = Text(f"memory {size(used)} of {size(limit)} ")
    memory.append_text(bar(used, limit, 2 * BAR_CELLS if columns >= 100 else BAR_CELLS))
    sums = [f"models {len(models)}", f"requests {running}", f"queued {queued}", f"{tokens:.0f} tok/s"]
    memory.append("  " + "  ".join(sums))
    memory.truncate(columns)
    return [_ends("  ".join(facts), clock, columns), memory]


def _ends(left: str, right: str, columns: int) -> Text:
    """The clock at the right end, if there is room for both."""
    gap = columns - width(left) - width(right)
    if gap < 2:
        return Text(shorten(printable(left), columns), style="bold")
    return Text(f"{printable(left)}{' ' * gap}", style="bold").append(right, style="not bold")


def bar(used: int, limit: int, cells: int) -> Text:
    """How much of the budget: blocks, or # in a terminal that has none."""
    full, empty = ("█", "░") if can_show("█░") else ("#", "-")
    share = min(1.0, used / limit) if limit else 0.0
    n_full = max(1 if used else 0, round(share * cells))
    color = "red" if share > 0.95 else "yellow" if share > 0.8 else "green"
    return Text().append(full * n_full, style=color).append(empty * (cells - n_full), style="dim")


# --------------------------------------------------------------------------- the models


def _sorted(models: list[dict[str, Any]], order: str) -> list[dict[str, Any]]:
    field = {"memory": "memory_bytes", "speed": "tokens_per_s"}.get(order)
    by_name = sorted(models, key=lambda model: str(model.get("name")).casefold())
    return by_name if field is None else sorted(by_name, key=lambda model: -(model.get(field) or 0))


def _table(models: list[dict[str, Any]], limit: int, columns: int, *, wide: bool) -> Table:
    rows = [_cells(model, limit, wide=wide) for model in models]
    names = [printable(str(model.get("name"))) for model in models]
    heads = list(rows[0] if rows else _cells({}, limit, wide=wide))
    widths = {head: max([width(head), *(row[head].cell_len for row in rows)]) for head in heads}
    widths["LAST ERROR"] = -2  # it gets what remains

    def left(shown: list[str]) -> int:
        return columns - sum(widths[head] + 2 for head in shown)

    wanted = max([width("NAME"), *(min(width(name), LEAST_NAME_CELLS) for name in names)])
    for head in LEAVE_OUT:
        if head in heads and left(heads) < wanted:
            heads.remove(head)
    name_cells = max(4, min(max([width("NAME"), *map(width, names)]), left(heads)))
    error_cells = left(heads) - name_cells - 2
    if "LAST ERROR" in heads and error_cells < LEAST_ERROR_CELLS:
        heads.remove("LAST ERROR")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("NAME", no_wrap=True, overflow="crop")
    for head in heads:
        justify: Any = "right" if head in RIGHT else "left"
        table.add_column(head, no_wrap=True, overflow="crop", justify=justify)
    for name, row in zip(names, rows, strict=True):
        if wide:
            row["LAST ERROR"] = Text(shorten(row["LAST ERROR"].plain, error_cells))
        table.add_row(shorten(name, name_cells), *(row[head] for head in heads))
    return table


def _cells(model: dict[str, Any], limit: int, *, wide: bool) -> dict[str, Text]:
    """All columns but the name, in their order."""
    cache = model.get("cache") or {}
    asked = (cache.get("hits") or 0) + (cache.get("misses") or 0)
    state, progress = str(model.get("state")), model.get("load_progress")
    shown = f"{state} {100 * progress:.0f}%" if state == "loading" and progress else state
    used = model.get("memory_bytes") or 0
    memory = bar(used, limit, BAR_CELLS // 2).append(f" {size(used)}")
    cells = {
        "STATE": Text(printable(shown), style=STATES.get(state, "")),
        "MEMORY": memory,
        "CACHE": Text(size(cache.get("bytes"))),
        "HITS": Text(f"{100 * cache['hits'] / asked:.0f}%" if asked else NOTHING),
        "REQS": Text(requests(model)),
        "TOK/S": Text(speed(model)),
        "UNTIL": Text(duration(model.get("until"))),
    }
    if wide:
        cells["PID"] = Text(str(model.get("pid") or NOTHING))
        cells["UPTIME"] = Text(duration(model.get("uptime_s")))
        cells["RESTARTS"] = Text(str(model.get("restarts") or 0))
        cells["LAST ERROR"] = Text(printable(str(model.get("last_error") or NOTHING)))
    return cells


# --------------------------------------------------------------------------- the events


def _events(events: list[dict[str, Any]], columns: int, room: int) -> list[Text]:
    """The newest last, as in a log; as many as there is room for."""
    told = [event for event in events if event.get("kind") != "load_progress"][-max(0, room - 1) :]
    lines = []
    for event in told if room > 1 else []:
        text = f"{format_time(event.get('time', 0))[11:]}  {describe_event(event)}"
        lines.append(Text(shorten(text, columns), style=KINDS.get(str(event.get("kind")), "")))
    return [Text("EVENTS", style="bold"), *lines]
