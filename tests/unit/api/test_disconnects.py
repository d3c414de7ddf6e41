from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from mlxk.api.disconnects import ClientGoneError, run_unless_gone


class Client:
    """Sends the rest of its body, then stays until it is told to leave."""

    def __init__(self) -> None:
        self._body: list[Message] = [{"type": "http.request", "body": b"x", "more_body": False}]
        self.leaves = asyncio.Event()

    async def receive(self) -> Message:
        if self._body:
            return self._body.pop()
        await self.leaves.wait()
        return {"type": "http.disconnect"}


def test_the_result_of_work_that_ends_first() -> None:
    async def work() -> int:
        return 42

    async def scene() -> int:
        return await run_unless_gone(Client().receive, work())

    assert asyncio.run(scene()) == 42


def test_what_work_raises_comes_through() -> None:
    async def work() -> None:
        raise LookupError

    async def scene() -> None:
        await run_unless_gone(Client().receive, work())

    with pytest.raises(LookupError):
        asyncio.run(scene())


def test_work_is_cancelled_and_has_cleaned_up_when_the_client_is_gone() -> None:
    async def scene() -> None:
        client, cleaned = Client(), False

        async def work() -> None:
            nonlocal cleaned
            client.leaves.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                cleaned = True

        with pytest.raises(ClientGoneError):
            await run_unless_gone(client.receive, work())
        assert cleaned

    asyncio.run(scene())


def test_a_cancelled_request_cancels_its_work() -> None:
    async def scene() -> None:
        begun, cleaned = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.set()

        request = asyncio.create_task(run_unless_gone(Client().receive, work()))
        await begun.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert cleaned.is_set()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scene())
