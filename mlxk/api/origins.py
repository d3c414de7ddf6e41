"""Which web pages may use this server: the door against pages of other sites, and CORS for those listed.

A page can send a plain POST to 127.0.0.1 without asking (CORS only keeps it from reading the answer), and
that would load models and burn tokens. So what a browser sends for another origin is refused here, unless
`cors_origins` lists it. Programs send no Origin and are not asked.
"""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from mlxk.api.errors import error_response
from mlxk.api.rules import DoorRules, header_values

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_FOREIGN_SITES = (b"cross-site", b"same-site")
"""`same-site` is another port or subdomain: another program's page, or another person's."""


def is_same_origin(origin: str, host: str) -> bool:
    """Whether a page of `origin` came from the server that is asked as `host`. The scheme may be https where
    a proxy in front of us speaks TLS."""
    scheme, _, authority = origin.lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    return port is not None and authority.removesuffix(port) == host.lower().removesuffix(port) != ""


class OriginDoor:
    """403 for what a browser sends on behalf of another origin's page, before a byte of the body is read."""

    def __init__(self, app: ASGIApp, rules: DoorRules) -> None:
        self.app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (origin := self._foreign_origin(scope)):
            message = (
                f"A web page of {origin[:200]} may not use this server. If it should, add its origin to "
                "cors_origins (MLXK_CORS_ORIGINS)."
            )
            await error_response(403, "origin_not_allowed", message, param="Origin")(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _foreign_origin(self, scope: Scope) -> str | None:
        """Who asks, if it is none of ours."""
        rules = self._rules
        if rules.knows_all_origins:
            return None
        origins = header_values(scope, b"origin")
        site = b"".join(header_values(scope, b"sec-fetch-site")).lower()
        if not origins:
            # Browsers send no Origin with <img>, <script> or a frame; new ones say this much.
            return "another site" if site in _FOREIGN_SITES and not _is_link(scope) else None
        # Its own word that page and address are one, also where a proxy has changed the Host.
        if len(origins) == 1 and site != b"same-origin":
            origin = origins[0].decode("latin-1").strip()
            hosts = header_values(scope, b"host")
            is_ours = bool(hosts) and is_same_origin(origin, hosts[0].decode("latin-1").strip())
            return None if is_ours or rules.knows_origin(origin.lower()) else origin or "another site"
        return "several origins" if len(origins) > 1 else None


def _is_link(scope: Scope) -> bool:
    """A person follows a link, to /docs for instance: what a GET does here is only to show."""
    return (
        scope["method"] in ("GET", "HEAD")
        and header_values(scope, b"sec-fetch-mode") == [b"navigate"]
        and header_values(scope, b"sec-fetch-dest") == [b"document"]
    )


class CorsDoor:
    """Starlette's CORS, made anew when a reload changes the origins; nothing at all while none is listed.

    It stands before the keys: a browser's preflight carries none, and a page must be able to read a 401.
    """

    def __init__(self, app: ASGIApp, rules: DoorRules) -> None:
        self.app = app
        self._rules = rules
        self._made_for: object = None
        self._cors: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = (self._rules.origins, self._rules.origin_pattern)
        if wanted != self._made_for:
            self._made_for, self._cors = wanted, self._make()
        await self._cors(scope, receive, send)

    def _make(self) -> ASGIApp:
        rules = self._rules
        if not rules.knows_origins:
            return self.app
        pattern = rules.origin_pattern
        return CORSMiddleware(
            self.app,
            allow_origins=["*"] if rules.knows_all_origins else list(rules.origins),
            allow_origin_regex=pattern.pattern if pattern and not rules.knows_all_origins else None,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],
            # A page of the internet that was listed may reach into the private network (Chrome asks).
            allow_private_network=True,
            expose_headers=["X-Request-ID", "Retry-After"],
        )
