"""Streams are served in turns. (What is written is seen over real sockets: tests/api, tests/process.)"""

from __future__ import annotations

import asyncio

from mlxk.api.wire import Turn, wire_of
from tests.unit.supervisor.aio import in_loop


@in_loop
async def test_streams_are_served_when_all_that_came_together_is_there_at_one_time() -> None:
    turn = Turn()
    served: list[tuple[str, float]] = []
    turn.add(lambda now: served.append(("a", now)))
    turn.add(lambda now: served.append(("b", now)))
    assert served == []
    await asyncio.sleep(0)
    assert [name for name, _ in served] == ["a", "b"]
    assert len({now for _, now in served}) == 1
    await asyncio.sleep(0)
    assert len(served) == 2


def test_the_scope_of_another_server_has_no_wire() -> None:
    assert wire_of({}) is None
