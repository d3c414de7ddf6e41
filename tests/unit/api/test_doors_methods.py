from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from mlxk.api.methods import MethodDoor
from tests.unit.api.asgi import Answer, ask, call


async def _show(request: Request) -> Response:
    return JSONResponse({"method": request.method})


async def _endless(request: Request) -> Response:
    async def tick() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0)

    return StreamingResponse(tick())


class _OnlyGet(Starlette):
    """FastAPI's routes know no HEAD, Starlette's add it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["method"] != "HEAD"
        await super().__call__(scope, receive, send)


APP = MethodDoor(
    _OnlyGet(
        routes=[Route("/get", _show), Route("/post", _show, methods=["POST"]), Route("/endless", _endless)]
    )
)


def test_head_is_get_without_the_body() -> None:
    got, head = ask(APP, path="/get"), ask(APP, method="HEAD", path="/get")
    assert (head.status, head.headers, head.body) == (200, got.headers, b"")
    assert ask(APP, method="HEAD", path="/none").status == 404


def test_head_of_a_route_without_get_is_a_405() -> None:
    answer = ask(APP, method="HEAD", path="/post")
    assert (answer.status, answer.headers["allow"], answer.body) == (405, "POST, OPTIONS", b"")


@pytest.mark.timeout(10)
def test_head_of_an_endless_stream_ends() -> None:
    answer = Answer()
    ended = asyncio.Event()

    async def receive() -> Message:
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answer.messages.append(message)
        if message.get("more_body") is False:
            ended.set()

    scope = {"type": "http", "method": "HEAD", "path": "/endless", "headers": [], "query_string": b""}
    asyncio.run(call(APP, scope, receive, send))
    assert (answer.status, answer.body, len(answer.messages)) == (200, b"", 2)


def test_options_says_what_is_allowed() -> None:
    answer = ask(APP, method="OPTIONS", path="/post")
    assert (answer.status, answer.headers, answer.body) == (204, {"allow": "POST, OPTIONS"}, b"")
    assert ask(APP, method="OPTIONS", path="/none").status == 404


def test_a_405_names_what_is_allowed() -> None:
    answer = ask(APP, method="DELETE", path="/get")
    assert answer.status == 405
    assert sorted(answer.headers["allow"].split(", ")) == ["GET", "HEAD", "OPTIONS"]
