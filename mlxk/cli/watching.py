"""For verbs that go on until nobody wants them any more: `logs -f`, `events`."""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Mapping
from typing import Any

PAUSE_S = 0.1


def write_out(data: bytes) -> None:
    """Raises BrokenPipeError when the reader has left."""
    sys.stdout.flush()
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None:
        sys.stdout.write(data.decode("utf-8", "replace"))
    else:
        stream.write(data)
    sys.stdout.flush()


def print_text(text: str) -> None:
    """A line for people, at once."""
    write_out(f"{text}\n".encode(sys.stdout.encoding or "utf-8", "replace"))


def print_line(facts: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own, at once."""
    write_out(json.dumps(facts, ensure_ascii=True, default=str).encode() + b"\n")


def pause() -> None:
    """A moment's wait. Raises BrokenPipeError if the reader of our output has left: `mlxk logs -f | head`
    must end also when no line comes that would tell."""
    time.sleep(PAUSE_S)
    check_reader()


def check_reader() -> None:
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):
        return
    watch = select.poll()
    watch.register(descriptor, 0)  # errors and hang-ups are always told
    for _, events in watch.poll(0):
        if events & (select.POLLERR | select.POLLHUP):
            raise BrokenPipeError("the reader has left")
