"""The bus: emitting never waits, a slow listener loses events and is told, and nobody stays subscribed."""

from __future__ import annotations

import asyncio

from mlxk.supervisor import events
from mlxk.supervisor.events import EventBus, EventKind
from tests.unit.supervisor.aio import in_loop, turns


@in_loop
async def test_a_listener_gets_what_happens_from_then_on_in_order() -> None:
    bus = EventBus()
    bus.emit(EventKind.STATE, model="before")
    with bus.subscribe() as listener:
        for name in "abc":
            bus.emit(EventKind.STATE, model=name)
        got = await listener.next(1)
    assert [event["model"] for event in got] == ["a", "b", "c"]
    assert [event["n"] for event in got] == [2, 3, 4]
    assert bus.n_listeners == 0


@in_loop
async def test_waiting_ends_with_an_event_or_in_time() -> None:
    bus = EventBus()
    with bus.subscribe() as listener:
        assert await listener.next(0.01) == []
        waiting = asyncio.create_task(listener.next(10))
        await turns()
        bus.emit(EventKind.SERVER, state="ready")
        [event] = await waiting
        assert event["kind"] == "server"


@in_loop
async def test_who_reads_too_slowly_is_told_how_many_are_missing() -> None:
    bus = EventBus()
    with bus.subscribe() as slow, bus.subscribe() as other:
        for _ in range(events.BACKLOG_EVENTS + 7):
            bus.emit(EventKind.STATE)
        got = await slow.next(1)
        assert (got[-1]["kind"], got[-1]["count"]) == ("lost", 7)
        assert len(got) == events.BACKLOG_EVENTS + 1
        assert len(await other.next(1)) == events.BACKLOG_EVENTS + 1
        bus.emit(EventKind.STATE, model="next")
        assert [event.get("model") for event in await slow.next(1)] == ["next"]


def test_the_past_is_bounded_and_can_be_asked_for_in_part() -> None:
    bus = EventBus()
    for _ in range(events.KEPT_EVENTS + 50):
        bus.emit(EventKind.STATE)
    last = events.KEPT_EVENTS + 50
    assert len(bus.recent()) == events.KEPT_EVENTS
    assert [event["n"] for event in bus.recent(2)] == [last - 1, last]
    assert bus.recent(0) == []
    assert [event["n"] for event in bus.recent(after=last - 1)] == [last]
    assert bus.recent(after=last) == []


@in_loop
async def test_closing_wakes_every_listener_and_lets_it_take_the_rest() -> None:
    bus = EventBus()
    with bus.subscribe() as waits, bus.subscribe() as has_some:
        waiting = asyncio.create_task(waits.next(None))
        await turns()
        bus.close()
        assert await waiting == []
        bus.emit(EventKind.SERVER, state="closing")
        assert len(await has_some.next(None)) == 1
        assert await has_some.next(None) == []
