"""Which names this server answers to: the door against DNS rebinding."""

from __future__ import annotations

import ipaddress
import re

from starlette.types import ASGIApp, Receive, Scope, Send

from mlxk.api.errors import error_response
from mlxk.api.rules import DoorRules, header_values, is_loopback, matches_host

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:/@\[\]]+))(?::[0-9]{0,5})?")
_LOCAL_ENDINGS = (".localhost", ".internal")
_PRIVATE_ENDINGS = (*_LOCAL_ENDINGS, ".local", ".lan", ".home.arpa")
"""No public DNS holds a name that ends so."""


def host_name(value: bytes) -> str | None:
    """The name or address in a Host header, without port; None if it is none."""
    found = _HOST.fullmatch(value.decode("latin-1").strip().lower())
    return (found[1] or found[2].rstrip(".") or None) if found else None


def is_local_name(name: str) -> bool:
    """Whether it is a name of this machine: `localhost`, `127.0.0.1`, `::1`; and what only it can resolve:
    `*.localhost`, and `*.internal`, which containers use."""
    return is_loopback(name) or name.endswith(_LOCAL_ENDINGS)


def is_private_name(name: str) -> bool:
    """Whether no stranger can make it resolve to this machine: addresses, and names without public DNS."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(_PRIVATE_ENDINGS)
    return True


class HostDoor:
    """Against DNS rebinding: a web page whose name was made to resolve to 127.0.0.1 is of the same origin
    as this server for the browser, but its requests carry its name.

    On loopback, names of this machine and those of `allowed_hosts` are answered. On another address, all
    names where keys are asked for (a page has none) and nothing is listed; else those listed, and those that
    no public DNS can hold.
    """

    def __init__(self, app: ASGIApp, rules: DoorRules) -> None:
        self.app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        hosts = header_values(scope, b"host")
        if not hosts and scope.get("http_version") == "1.1":
            message = "An HTTP/1.1 request needs a Host header."
            await error_response(400, "host_missing", message, param="Host")(scope, receive, send)
            return
        # No Host at all is HTTP/1.0, which no browser speaks.
        if len(hosts) > 1 or not all(self._is_ours(host) for host in hosts):
            message = (
                "This server does not answer to that host name. Use http://127.0.0.1 or its address, "
                "or list the name in allowed_hosts (MLXK_ALLOWED_HOSTS)."
            )
            await error_response(403, "host_not_allowed", message, param="Host")(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_ours(self, value: bytes) -> bool:
        name = host_name(value)
        rules = self._rules
        if name is None:
            return False
        if is_local_name(name) or any(matches_host(name, listed) for listed in rules.allowed_hosts):
            return True
        if rules.is_on_loopback:
            return False
        return is_private_name(name) or bool(rules.keys and not rules.allowed_hosts)
