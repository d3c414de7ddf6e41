"""The route that was meant by a path that there is not: a slash too many, `/v1` left out or written twice."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import Route


def nearby(routes: Iterable[Route], method: str, path: str) -> str | None:
    """`POST /v1/chat/completions` for `/chat/completions`, `/v1/v1/chat/completions` and the like."""
    core = path.strip("/")
    while core.startswith("v1/"):
        core = core.removeprefix("v1/").lstrip("/")
    candidates = [one for one in (f"/v1/{core}", f"/{core}") if core and one != path]
    found = [(route.methods or set(), one) for one in candidates for route in routes if _fits(route, one)]
    found.sort(key=lambda one: method not in one[0])  # stable: the asked method first
    for methods, candidate in found:
        return f"{method if method in methods else min(methods)} {candidate}"
    return None


def _fits(route: Route, path: str) -> bool:
    return route.path_regex.match(path) is not None
