"""GET /: what is asked first of a local server, by people in a browser and by programs that look around.

A page that manages models may take the place of the one for browsers; programs get JSON.
"""

from __future__ import annotations

from html import escape

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.requests import Request

from mlxk import __version__
from mlxk.api.doors import has_key
from mlxk.api.rules import DoorRules

_LINKS = {"docs": "/docs", "openapi": "/openapi.json", "models": "/v1/models", "pool": "/pool"}
_STYLE = "body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:2rem auto;color-scheme:light dark}"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Vary": "Accept, Authorization",
}


def install_root(app: FastAPI, rules: DoorRules) -> None:
    async def root(request: Request) -> Response:
        facts = {"name": "mlxk", "status": "running"}
        if rules.keys and not has_key(request.scope, rules):
            facts["needs"] = "Authorization: Bearer API_KEY"  # no version: it says what may be wrong with it
        else:
            facts |= {"version": __version__, **_LINKS}
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(_page(facts), headers=_HEADERS)
        return JSONResponse(facts, headers=_HEADERS)

    app.add_route("/", root, methods=["GET"], include_in_schema=False)


def _page(facts: dict[str, str]) -> str:
    title = f"mlxk {facts['version']}" if "version" in facts else "mlxk"
    links = "".join(f"<li><a href='{path}'>{path}</a>" for path in _LINKS.values() if path in facts.values())
    needs = f"<p>Send <code>{escape(facts['needs'])}</code>." if "needs" in facts else ""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>The server is running.{needs}<ul>{links}</ul>"
    )
