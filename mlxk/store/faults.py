"""What can be wrong with a model, as data: how bad it is, in which words, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    DAMAGED = "damaged"
    """Files are missing or broken: the model cannot be loaded, and getting the files again mends it."""
    UNSUPPORTED = "unsupported"
    """The files are whole, but the installed MLX and mlx_lm cannot run what is in them."""
    WARNING = "warning"
    """It can be loaded; something about it is worth knowing."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `text` and `advice` are sentences without capital and full stop."""

    kind: str
    """Stable, for scripts: "truncated", "lfs_pointer", …"""
    severity: Severity
    text: str
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Both, to follow "NAME: "."""
        return f"{self.text}; {self.advice}" if self.advice else self.text

    def as_data(self) -> dict[str, str]:
        return {"type": self.kind, "severity": self.severity, "message": self.text, "advice": self.advice}


def damaged(kind: str, text: str, advice: str) -> Fault:
    return Fault(kind, Severity.DAMAGED, text, advice)


def unsupported(kind: str, text: str, advice: str) -> Fault:
    return Fault(kind, Severity.UNSUPPORTED, text, advice)


def warning(kind: str, text: str, advice: str = "") -> Fault:
    return Fault(kind, Severity.WARNING, text, advice)
