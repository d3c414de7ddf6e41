"""Answers to HTTP/1.0: such a client (ab; nginx as a proxy, unless told otherwise) knows no chunks. What has
no length ends with the connection."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def knows_no_chunks(cycle: RequestResponseCycle) -> bool:
    return cycle.scope["http_version"] != "1.1"


def unframed(cycle: RequestResponseCycle, app: Any) -> Any:
    """`app`, whose answers without a Content-Length go out as they are. uvicorn would send chunks; and it
    compares each body with the length that is left, so it is told that this is all there is."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        has_length = True

        async def send_unframed(message: Any) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                if not has_length:
                    cycle.chunked_encoding = False
            elif not has_length:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unframed)

    return answer
