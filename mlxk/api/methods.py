"""HEAD and OPTIONS, for all routes alike."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class MethodDoor:
    """HEAD answers like GET, without the body (FastAPI's routes know no HEAD). OPTIONS says what a path
    allows; a browser's preflight has been answered before it comes here."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"] if scope["type"] == "http" else ""
        if method == "HEAD":
            await self.app({**scope, "method": "GET"}, receive, _HeadOnly(send))
        elif method == "OPTIONS":
            await self.app(scope, receive, _Options(send))
        elif scope["type"] == "http":
            await self.app(scope, receive, _Allow(send))
        else:
            await self.app(scope, receive, send)


class _Allow:
    """Allow names what `MethodDoor` adds, too."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 405:
            message["headers"] = [
                (name, _more(value) if name.lower() == b"allow" else value)
                for name, value in message.get("headers", ())
            ]
        await self._send(message)


def _more(allow: bytes) -> bytes:
    methods = [method.strip() for method in allow.split(b",")]
    extra = [b"HEAD", b"OPTIONS"] if b"GET" in methods else [b"OPTIONS"]
    return b", ".join(dict.fromkeys([*methods, *extra]))


class _HeadOnly(_Allow):
    """Ends the answer with its head: a stream's would have no end."""

    _ended = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await super().__call__(message)
        elif not self._ended:
            self._ended = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class _Options(_Allow):
    """No route has OPTIONS, so each answers 405 with its Allow: that is the answer to the question."""

    _is_answered = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 405:
            self._is_answered = True
            kept = [(name, value) for name, value in message["headers"] if name.lower() == b"allow"]
            message = {**message, "status": 204, "headers": [(name, _more(value)) for name, value in kept]}
        elif self._is_answered and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)
