"""Who may come in: Host header, bearer keys, size of the body. Pure ASGI middleware, each a few lines.

(Never BaseHTTPMiddleware: it puts a task and a queue between every token and the client.)
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlxk.api.errors import error_response
from mlxk.config.settings import ConfigError, Settings

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Need no key: they tell nothing, and a probe should not hold a secret."""


def header_values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


# --------------------------------------------------------------------------- host


def is_loopback(host: str) -> bool:
    """Of an address or name to bind to."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_local_host_header(value: bytes) -> bool:
    """Whether a Host header names this machine: `localhost`, `127.0.0.1:8000`, `[::1]`.

    Also names that no public DNS can hold: `*.localhost`, and `*.internal`, which containers use.
    """
    text = value.decode("latin-1").strip().lower()
    name = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0].rstrip(".")
    return is_loopback(name) or name.endswith((".localhost", ".internal"))


class HostDoor:
    """Against DNS rebinding: a web page whose name was made to resolve to 127.0.0.1 is of the same origin
    as this server for the browser, but its requests carry its name."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = header_values(scope, b"host") if scope["type"] == "http" else []
        # No Host at all is HTTP/1.0, which no browser speaks.
        if len(hosts) > 1 or not all(is_local_host_header(host) for host in hosts):
            message = "This server answers to localhost only. Use http://127.0.0.1, or bind it with --host."
            await error_response(403, "host_not_allowed", message, param="Host")(scope, receive, send)
            return
        await self.app(scope, receive, send)


# --------------------------------------------------------------------------- keys


def load_keys(settings: Settings, environ: Mapping[str, str] | None = None) -> tuple[bytes, ...]:
    """API keys of `api_key_file` (one a line, # comments) and of MLXK_API_KEY and MLXK_API_KEYS (commas).

    Raises ConfigError for a file that cannot be read or holds no key: the server would be open.
    """
    environ = os.environ if environ is None else environ
    keys: list[str] = []
    if settings.api_key_file:
        keys += _keys_of_file(Path(settings.api_key_file).expanduser())
    for name in ("MLXK_API_KEY", "MLXK_API_KEYS"):
        keys += [key.strip() for key in environ.get(name, "").split(",") if key.strip()]
    return tuple(key.encode("utf-8", "surrogateescape") for key in dict.fromkeys(keys))


def _keys_of_file(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"api_key_file {path} cannot be read: {error}") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"api_key_file {path} holds no key: write one on a line")
    return keys


def refuse_open_door(settings: Settings, keys: Sequence[bytes]) -> None:
    """Raises ConfigError for an address that others can reach, without a key and without --no-auth."""
    if not keys and not settings.no_auth and not is_loopback(settings.host):
        raise ConfigError(
            f"host {settings.host} can be reached by others and no API key is set: set api_key_file or "
            "MLXK_API_KEY, or say --no-auth to let everybody in"
        )


class DoorRules:
    """What the doors go by: one object that they share, so that a reload can change it."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError for an unreadable key file, or an open address without a key."""
        self.take_up(settings)

    def take_up(self, settings: Settings) -> None:
        """Raises ConfigError as above, and has changed nothing then."""
        keys = load_keys(settings)
        refuse_open_door(settings, keys)
        self.keys = keys
        """Empty: no key is asked for."""
        self.max_body_bytes = settings.max_body_bytes


class KeyDoor:
    """`Authorization: Bearer KEY`, compared in constant time with every key."""

    def __init__(self, app: ASGIApp, rules: DoorRules) -> None:
        self.app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = not self._rules.keys or scope["type"] != "http" or scope["path"] in OPEN_PATHS
        if is_open or self._is_known(scope):
            await self.app(scope, receive, send)
            return
        message = "Wrong or missing API key. Send 'Authorization: Bearer YOUR_KEY'."
        headers = {"WWW-Authenticate": "Bearer"}
        await error_response(401, "invalid_api_key", message, headers=headers)(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        sent = header_values(scope, b"authorization")
        if len(sent) != 1:
            return False
        scheme, _, key = sent[0].partition(b" ")
        if scheme.lower() != b"bearer":
            return False
        key = key.strip()
        # No early end: the time must not tell which key was nearly right.
        matches = [hmac.compare_digest(key, known) for known in self._rules.keys]
        return any(matches)


# --------------------------------------------------------------------------- body


class BodyTooLargeError(Exception):
    """More bytes arrived than `max_body_bytes`."""


class BodyDoor:
    """Refuses a large body by its Content-Length before reading it, a chunked one as soon as it is too much.

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
