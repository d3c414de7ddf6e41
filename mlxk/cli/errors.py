"""How a verb ends when it cannot do what it was asked: an exit code and a sentence for a person."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """What scripts may rely on (contract.md, "Command line")."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_RUNNING = 3
    UNKNOWN_MODEL = 4
    TIMED_OUT = 5
    NO_MEMORY = 6
    INTERRUPTED = 130


EXIT_CODES = {
    "server_not_running": ExitCode.NOT_RUNNING,
    "model_not_found": ExitCode.UNKNOWN_MODEL,
    "ambiguous_model": ExitCode.UNKNOWN_MODEL,
    "model_renamed": ExitCode.UNKNOWN_MODEL,
    "revision_not_found": ExitCode.UNKNOWN_MODEL,
    "deadline_exceeded": ExitCode.TIMED_OUT,
    "timed_out": ExitCode.TIMED_OUT,
    "insufficient_memory": ExitCode.NO_MEMORY,
    "usage": ExitCode.USAGE,
    "interrupted": ExitCode.INTERRUPTED,
}
"""Error type (a `FaultCode` value, or one of the command line's own) to exit code; others are 1."""


class CliError(Exception):
    """The end of a verb. `type` decides the exit code; `details` go into the JSON envelope."""

    def __init__(self, type: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.details = details or {}

    @property
    def exit_code(self) -> ExitCode:
        return EXIT_CODES.get(self.type, ExitCode.ERROR)


def not_running(message: str = "no server is running") -> CliError:
    return CliError("server_not_running", f"{message}; start one with: mlxk serve --detach")
