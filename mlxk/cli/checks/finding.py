"""One thing that `mlxk doctor` has looked at, and what it thinks of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    OK = "ok"
    NOTE = "note"
    """Worth knowing; everything works."""
    PROBLEM = "problem"
    """Something does not work, or is held by nobody who needs it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`advice` says what to do about it, with a command to type where there is one; empty if all is well."""

    check: str
    status: Status
    message: str
    advice: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "status": self.status.value,
            "message": self.message,
            "advice": self.advice or None,
            "details": dict(self.details),
        }


def ok(check: str, message: str, **details: Any) -> Finding:
    return Finding(check, Status.OK, message, details=details)


def note(check: str, message: str, advice: str = "", **details: Any) -> Finding:
    return Finding(check, Status.NOTE, message, advice, details)


def problem(check: str, message: str, advice: str, **details: Any) -> Finding:
    return Finding(check, Status.PROBLEM, message, advice, details)


def summary(findings: list[Finding]) -> dict[str, int]:
    """How many of each."""
    counts = {status: sum(finding.status is status for finding in findings) for status in Status}
    return {"ok": counts[Status.OK], "notes": counts[Status.NOTE], "problems": counts[Status.PROBLEM]}
