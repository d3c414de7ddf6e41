"""What is counted of HTTP: requests by route and status. One per application, so that several do not collide.

No label may hold what a client made up: routes are templates, methods are known ones, models canonical.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from mlxk.api.records import RequestRecord
from mlxk.supervisor.meters import Histogram

DURATION_BOUNDS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
"""From a probe to a long answer behind a load."""
OTHER = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})


@dataclass(slots=True)
class HttpMeter:
    """Since the server began; written in the event loop's thread only."""

    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """By method, route and status."""
    model_requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """By model, route and status."""
    duration_s: dict[str, Histogram] = field(default_factory=dict)
    """By route, to the end of the answer."""
    in_flight: int = 0
    count_connections: Callable[[], int] = lambda: 0
    """Set by the server that has them."""
    routes: list[Route] = field(default_factory=list)

    def know(self, routes: Iterable[BaseRoute]) -> None:
        """Routes whose paths may be a label, in the order in which they are asked."""
        self.routes += [route for route in routes if isinstance(route, Route)]

    def begin(self) -> None:
        self.in_flight += 1

    def end(self, scope: Scope, record: RequestRecord) -> None:
        self.in_flight -= 1
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        route, status = self._route_of(scope), record.final_status
        self.requests[method, route, status] += 1
        if record.model is not None:
            self.model_requests[record.model, route, status] += 1
        if route not in self.duration_s:
            self.duration_s[route] = Histogram(DURATION_BOUNDS_S)
        self.duration_s[route].observe(record.took_s)

    def _route_of(self, scope: Scope) -> str:
        """A template, also where a door refused the request before any route was asked; "other" for a path
        that there is not. (Whoever is asked writes the route into a scope of his own, maybe.)"""
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        found = [route for route in self.routes if route.path_regex.match(scope["path"])]
        exact = [route for route in found if method in (route.methods or ())]
        return next((route.path_format for route in (*exact, *found)), OTHER)

    def copy(self) -> HttpMeter:
        """For another thread."""
        connections = self.count_connections()
        return HttpMeter(
            self.requests.copy(),
            self.model_requests.copy(),
            {route: duration.copy() for route, duration in self.duration_s.items()},
            self.in_flight,
            lambda: connections,
        )
