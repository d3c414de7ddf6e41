"""The HTTP application, put together: routers, doors, error handlers."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from mlxk import __version__
from mlxk.api.access import AccessDoor
from mlxk.api.chat import chat_router
from mlxk.api.completions import completions_router
from mlxk.api.doors import BodyDoor, DoorRules, HostDoor, KeyDoor, is_loopback
from mlxk.api.errors import install_error_handlers
from mlxk.api.facade import Service
from mlxk.api.health import health_router
from mlxk.api.models import models_router
from mlxk.api.openapi import install_openapi
from mlxk.api.pool import pool_router
from mlxk.api.server import ApiServer
from mlxk.config.settings import Settings


def create_app(service: Service, rules: DoorRules | None = None) -> FastAPI:
    """Raises ConfigError for an unreadable key file, or an open address without a key."""
    rules = rules or DoorRules(service.settings)
    app = FastAPI(
        title="mlxk",
        version=__version__,
        description="Several MLX language models, each in a process of its own, behind OpenAI's API.",
        middleware=_doors(service.settings, rules),
        # A redirect would be built from the Host header and lose the body in some clients.
        redirect_slashes=False,
    )
    install_error_handlers(app)
    install_openapi(app)
    for make_router in (chat_router, completions_router, models_router, health_router, pool_router):
        app.include_router(make_router(service))
    return app


def create_server(service: Service, settings: Settings) -> ApiServer:
    """For the supervisor's lifecycle, which knows nothing of FastAPI. Raises ConfigError as `create_app`."""
    rules = DoorRules(settings)
    return ApiServer(create_app(service, rules), take_up=rules.take_up, default_stop_s=settings.stop_grace_s)


def _doors(settings: Settings, rules: DoorRules) -> list[Middleware]:
    """The first is the outermost."""
    doors = [Middleware(AccessDoor)]
    if is_loopback(settings.host):
        doors.append(Middleware(HostDoor))
    if settings.cors_origins:
        # Before the keys: a browser's preflight carries none, and a 401 must be readable by the page.
        doors.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.cors_origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=["X-Request-ID", "Retry-After"],
            )
        )
    doors.append(Middleware(KeyDoor, rules=rules))
    doors.append(Middleware(BodyDoor, rules=rules))
    return doors
