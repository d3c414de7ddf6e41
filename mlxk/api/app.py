"""The HTTP application, put together: routers, doors, error handlers."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware

from mlxk import __version__
from mlxk.api.access import AccessDoor
from mlxk.api.chat import chat_router
from mlxk.api.completions import completions_router
from mlxk.api.docs_page import install_docs
from mlxk.api.doors import BodyDoor, KeyDoor
from mlxk.api.errors import install_error_handlers
from mlxk.api.facade import Service
from mlxk.api.health import health_router
from mlxk.api.hosts import HostDoor
from mlxk.api.http_meter import HttpMeter
from mlxk.api.methods import MethodDoor
from mlxk.api.metrics import metrics_router
from mlxk.api.models import models_router
from mlxk.api.openapi import install_openapi
from mlxk.api.origins import CorsDoor, OriginDoor
from mlxk.api.pool import pool_router
from mlxk.api.root import install_root
from mlxk.api.rules import DoorRules
from mlxk.api.server import ApiServer
from mlxk.api.tokenize import tokenize_router
from mlxk.config.settings import Settings


def create_app(service: Service, rules: DoorRules | None = None) -> FastAPI:
    """Raises ConfigError for an unreadable key file, or an open address without a key."""
    rules = rules or DoorRules(service.settings)
    meter = HttpMeter()
    app = FastAPI(
        title="mlxk",
        version=__version__,
        description="Several MLX language models, each in a process of its own, behind OpenAI's API.",
        middleware=_doors(rules, meter),
        # A redirect would be built from the Host header and lose the body in some clients.
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    install_error_handlers(app)
    install_openapi(app)
    install_docs(app)
    install_root(app, rules)
    routers = (
        chat_router(service),
        completions_router(service),
        models_router(service),
        health_router(service),
        pool_router(service),
        tokenize_router(service),
        metrics_router(service, meter),
    )
    meter.know(app.routes)  # the documentation's
    for router in routers:
        meter.know(router.routes)
        app.include_router(router)
    app.state.http_meter = meter
    return app


def create_server(service: Service, settings: Settings) -> ApiServer:
    """For the supervisor's lifecycle, which knows nothing of FastAPI. Raises ConfigError as `create_app`."""
    rules = DoorRules(settings)
    app = create_app(service, rules)
    server = ApiServer(app, rules=rules, default_stop_s=settings.stop_grace_s)
    app.state.http_meter.count_connections = server.count_connections
    return server


def _doors(rules: DoorRules, meter: HttpMeter) -> list[Middleware]:
    """The first is the outermost."""
    return [
        Middleware(AccessDoor, meter=meter),
        Middleware(HostDoor, rules=rules),
        Middleware(OriginDoor, rules=rules),
        Middleware(CorsDoor, rules=rules),
        Middleware(KeyDoor, rules=rules),
        Middleware(MethodDoor),
        Middleware(BodyDoor, rules=rules),
    ]
