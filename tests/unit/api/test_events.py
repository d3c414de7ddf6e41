"""The stream of events without a server: comments in silence, and its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlxk.api import events
from mlxk.api.events import EventReply
from mlxk.supervisor.events import EventBus, EventKind


class Served:
    def __init__(self) -> None:
        self.events = EventBus()
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing


async def never_leaves() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


def test_silence_is_broken_by_comments_until_the_server_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PING_AFTER_S", 0.01)
    served: Any = Served()
    sent: list[dict[str, Any]] = []
    pinged = asyncio.Event()

    async def send(message: Any) -> None:
        sent.append(message)
        if sum(one.get("body") == b": ping\n\n" for one in sent) == 3:
            pinged.set()

    async def scene() -> None:
        reply = EventReply(served, recent=0, after=None)
        answering = asyncio.create_task(reply({"type": "http"}, never_leaves, send))
        async with asyncio.timeout(10):
            await pinged.wait()
            served.closing = True
            served.events.emit(EventKind.SERVER, state="closing")
            await answering

    asyncio.run(scene())
    bodies = [message["body"] for message in sent[1:]]
    assert b'"state":"closing"' in b"".join(bodies)
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert served.events.n_listeners == 0


def test_a_send_that_never_ends_holds_nothing_once_the_client_is_gone() -> None:
    served: Any = Served()
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.Event().wait()

    async def scene() -> None:
        reply = EventReply(served, recent=0, after=None)
        answering = asyncio.create_task(reply({"type": "http"}, receive, send))
        async with asyncio.timeout(10):
            while not served.events.n_listeners:  # noqa: ASYNC110 - a counter has no event
                await asyncio.sleep(0)
            gone.set()
            await answering

    asyncio.run(scene())
    assert served.events.n_listeners == 0
