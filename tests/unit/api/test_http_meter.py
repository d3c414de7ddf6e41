"""What is counted of HTTP requests, and under which labels."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mlxk.api.access import AccessDoor
from mlxk.api.http_meter import HttpMeter
from mlxk.api.records import record_of
from tests.unit.api.asgi import ask


class Bouncer:
    """A door that refuses before any route is asked."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if any(name == b"refuse" for name, _ in scope["headers"]):
            await Response(status_code=401)(scope, receive, send)
        else:
            await self.app({**scope}, receive, send)  # a door may hand on a scope of its own


def _app() -> tuple[FastAPI, HttpMeter]:
    meter = HttpMeter()
    app = FastAPI(middleware=[Middleware(AccessDoor, meter=meter), Middleware(Bouncer)])
    router = APIRouter(prefix="/things")

    @router.get("/{name:path}")
    async def get_thing(name: str) -> None: ...

    meter.know(router.routes)
    app.include_router(router)
    return app, meter


def test_routes_are_templates_and_not_what_a_client_typed() -> None:
    app, meter = _app()
    ask(app, path="/things/one")
    ask(app, path="/things/two/three")
    ask(app, path="/nothing/here")
    ask(app, method="DELETE", path="/things/one")
    ask(app, method="BREW", path="/things/one")
    ask(app, path="/things/one", headers=[("refuse", "1")])
    assert meter.requests == {
        ("GET", "/things/{name}", 200): 2,
        ("GET", "other", 404): 1,
        ("DELETE", "/things/{name}", 405): 1,
        ("other", "/things/{name}", 405): 1,
        ("GET", "/things/{name}", 401): 1,
    }
    assert sum(meter.duration_s["/things/{name}"].counts) == 5
    assert meter.in_flight == 0


def test_only_a_canonical_model_is_a_label() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).model = "tiny"

    meter = HttpMeter()
    ask(AccessDoor(app, meter))
    assert meter.model_requests == {("tiny", "other", 499): 1}


def test_two_applications_count_for_themselves() -> None:
    (one, its), (_, others) = _app(), _app()
    ask(one, path="/things/one")
    assert sum(its.requests.values()) == 1
    assert not others.requests


def test_a_copy_stands_still() -> None:
    app, meter = _app()
    meter.count_connections = lambda: 3
    ask(app, path="/things/one")
    copy = meter.copy()
    meter.count_connections = lambda: 4
    ask(app, path="/things/one")
    assert sum(copy.requests.values()) == 1
    assert sum(copy.duration_s["/things/{name}"].counts) == 1
    assert copy.count_connections() == 3
