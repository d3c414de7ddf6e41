"""What is remembered of one HTTP request while it runs, for the access log."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from starlette.types import Scope

_KEY = "mlxk.record"


@dataclass(slots=True)
class RequestRecord:
    """Filled in by whoever knows. Never bodies, never keys."""

    id: str
    started_at: float = field(default_factory=time.monotonic)
    status: int = 0
    """0: no answer was begun."""
    model: str | None = None
    worker: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_ms: float | None = None
    finish: str | None = None
    """A finish reason, or the code of the fault."""

    def line(self, method: str, path: str) -> str:
        """`GET /v1/models 200 3ms id=4f…`, then what is known."""
        took_ms = (time.monotonic() - self.started_at) * 1000
        # 499 is nginx's word for a client that left before it had an answer.
        parts = [f"{method} {path} {self.status or 499} {took_ms:.0f}ms id={self.id}"]
        facts = (
            ("model", self.model),
            ("worker", self.worker),
            ("prompt", self.prompt_tokens),
            ("cached", self.cached_tokens),
            ("completion", self.completion_tokens),
            ("ttft_ms", None if self.ttft_ms is None else round(self.ttft_ms)),
            ("finish", self.finish),
        )
        parts += [f"{name}={value}" for name, value in facts if value is not None]
        return " ".join(parts)


def keep_record(scope: Scope, record: RequestRecord) -> None:
    scope[_KEY] = record


def record_of(scope: Scope) -> RequestRecord:
    """The request's record; a fresh one, which nobody reads, where `AccessDoor` is not in front."""
    record = scope.get(_KEY)
    return record if isinstance(record, RequestRecord) else RequestRecord(new_request_id())


def new_request_id() -> str:
    return secrets.token_hex(8)
