"""What is remembered of one HTTP request while it runs, for the access log and the metrics."""

from __future__ import annotations

import json
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

CLIENT_GONE = "client_gone"
"""The finish of a request whose client has left before its end."""
NO_ANSWER = 499
"""nginx's word for a client that left before it had an answer."""

_KEY = "mlxk.record"
_PLAIN = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f-\x9f]+")


@dataclass(slots=True)
class RequestRecord:
    """Filled in by whoever knows. Never bodies, never keys."""

    id: str
    started_at: float = field(default_factory=time.monotonic)
    status: int = 0
    """0: no answer was begun."""
    model: str | None = None
    """Canonical name, never what the client wrote."""
    worker: str | None = None
    generation: str | None = None
    """The id by which the worker's log knows it."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    queue_ms: float | None = None
    """Until a worker had it (all of it, if there are several choices), or until it gave up waiting."""
    ttft_ms: float | None = None
    tokens_per_s: float | None = None
    """After the first token; of all choices together."""
    finish: str | None = None
    """A finish reason (several with commas), the code of the fault, or `CLIENT_GONE`."""

    @property
    def took_s(self) -> float:
        return time.monotonic() - self.started_at

    @property
    def final_status(self) -> int:
        return self.status or NO_ANSWER

    def facts(self, method: str, path: str) -> dict[str, Any]:
        """The fields of a JSON line: those that are known. Times in milliseconds."""
        known = {
            "message": f"{method} {path} {self.final_status}",
            "method": method,
            "path": path,
            "status": self.final_status,
            "ms": round(self.took_s * 1000, 1),
            "request_id": self.id,
            "model": self.model,
            "worker": self.worker,
            "generation": self.generation,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "queue_ms": _rounded(self.queue_ms),
            "ttft_ms": _rounded(self.ttft_ms),
            "tokens_per_s": _rounded(self.tokens_per_s),
            "finish": self.finish,
        }
        return {name: value for name, value in known.items() if value is not None}

    def line(self, method: str, path: str) -> str:
        """`GET /v1/models 200 3ms id=4f…`, then what is known."""
        facts = (
            ("id", self.id),
            ("model", self.model),
            ("worker", self.worker),
            # Only where somebody will look for it in the worker's log.
            ("generation", self.generation if self.final_status >= 500 else None),
            ("prompt", self.prompt_tokens),
            ("cached", self.cached_tokens),
            ("completion", self.completion_tokens),
            ("queue_ms", _whole(self.queue_ms)),
            ("ttft_ms", _whole(self.ttft_ms)),
            ("tok/s", _rounded(self.tokens_per_s)),
            ("finish", self.finish),
        )
        parts = [f"{name}={_value(value)}" for name, value in facts if value is not None]
        return " ".join([f"{method} {path} {self.final_status} {self.took_s * 1000:.0f}ms", *parts])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _value(value: object) -> str:
    """Quoted where it could be taken for several fields: a model's folder may have any name."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def keep_record(scope: Scope, record: RequestRecord) -> None:
    scope[_KEY] = record


def record_of(scope: Scope) -> RequestRecord:
    """The request's record; a fresh one, which nobody reads, where `AccessDoor` is not in front."""
    record = scope.get(_KEY)
    return record if isinstance(record, RequestRecord) else RequestRecord(new_request_id())


def new_request_id() -> str:
    return secrets.token_hex(8)
