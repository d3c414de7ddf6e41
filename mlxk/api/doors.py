"""Who may come in, and with how much: bearer keys, size of the body. Pure ASGI middleware, each a few lines.

(Never BaseHTTPMiddleware: it puts a task and a queue between every token and the client.)
"""

from __future__ import annotations

import hmac

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlxk.api.errors import error_response
from mlxk.api.rules import DoorRules, header_values

OPEN_PATHS = frozenset({"/", "/health", "/ready"})
"""Need no key: they tell nothing (`/` tells more to who has one), and a probe should not hold a secret."""


class KeyDoor:
    """`Authorization: Bearer KEY`, compared in constant time with every key."""

    def __init__(self, app: ASGIApp, rules: DoorRules) -> None:
        self.app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = not self._rules.keys or scope["type"] != "http" or scope["path"] in OPEN_PATHS
        if is_open or has_key(scope, self._rules):
            await self.app(scope, receive, send)
            return
        message = "Wrong or missing API key. Send 'Authorization: Bearer YOUR_KEY'."
        headers = {"WWW-Authenticate": "Bearer"}
        await error_response(401, "invalid_api_key", message, headers=headers)(scope, receive, send)


def has_key(scope: Scope, rules: DoorRules) -> bool:
    """Whether the request carries one of the keys."""
    sent = header_values(scope, b"authorization")
    if len(sent) != 1:
        return False
    scheme, _, key = sent[0].partition(b" ")
    if scheme.lower() != b"bearer":
        return False
    key = key.strip()
    # No early end: the time must not tell which key was nearly right.
    matches = [hmac.compare_digest(key, known) for known in rules.keys]
    return any(matches)


class BodyTooLargeError(Exception):
    """More bytes arrived than `max_body_bytes`."""


def _is_plain(content_encoding: bytes) -> bool:
    return all(one.strip().lower() in (b"", b"identity") for one in content_encoding.split(b","))


class BodyDoor:
    """Refuses a compressed body, and a large one: by its Content-Length before reading it, a chunked one as
    soon as it is too much.

    The connection stays open and what is still coming is dropped unread: a client that is cut off while it
    sends sees a broken pipe instead of the 413.
    """

    def __init__(self, app: ASGIApp, rules: DoorRules) -> None:
        self.app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "POST" and not all(map(_is_plain, header_values(scope, b"content-encoding"))):
            message = "Send the body uncompressed, not with a Content-Encoding."
            headers = {"Accept-Encoding": "identity"}
            refused = error_response(415, "unsupported_content_encoding", message, headers=headers)
            await refused(scope, receive, send)
            return
        if any(self._is_too_large(value) for value in header_values(scope, b"content-length")):
            await self._refuse(scope, receive, send)
            return
        received = 0
        has_begun = False

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._rules.max_body_bytes:
                    raise BodyTooLargeError
            return message

        async def send_noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive_counted, send_noted)
        except BodyTooLargeError:
            if has_begun:
                raise
            await self._refuse(scope, receive, send)

    def _is_too_large(self, content_length: bytes) -> bool:
        # The HTTP parser has refused what is no number; a number of a thousand digits is its length's worth.
        digits = content_length.strip().lstrip(b"0")
        return digits.isdigit() and (len(digits) > 18 or int(digits) > self._rules.max_body_bytes)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"The request body is over {self._rules.max_body_bytes} bytes (max_body_bytes)."
        await error_response(413, "request_too_large", message)(scope, receive, send)
