"""How a process ended, from its wait status, and what people and clients are told of it."""

from __future__ import annotations

import os
import signal

from mlxk.supervisor.log_quotes import quote_log
from mlxk.supervisor.states import ExitReport, StopStep
from mlxk.workers.protocol import Fault, FaultCode

DEATH_LINES = 2


def exit_report(status: int, step: StopStep, log_tail: tuple[str, ...], n_requests: int = 0) -> ExitReport:
    """`status` is waitpid's."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return ExitReport(None, -code, step, log_tail, n_requests)
    return ExitReport(code, None, step, log_tail, n_requests)


def describe_exit(report: ExitReport) -> str:
    """For people: "exit code 1", "killed by SIGKILL from outside, probably because memory ran out"."""
    if report.signal is None:
        return f"exit code {report.code}"
    try:
        name = signal.Signals(report.signal).name
    except ValueError:
        name = f"signal {report.signal}"
    if name == "SIGKILL" and not report.wanted:
        return "killed by SIGKILL from outside, probably because memory ran out"
    return f"killed by {name}"


def death_fault(report: ExitReport) -> Fault:
    """For the requests that a worker took with it. Quotes what it said last, which explains most crashes."""
    text = f"The model's process died ({describe_exit(report)}). Try again: it will be started anew."
    own_lines = [line for line in report.log_tail if line.strip() and not line.startswith("---")]
    if own_lines:
        text += f" It said last: {quote_log(own_lines[-DEATH_LINES:])}"
    return Fault(FaultCode.WORKER_DIED, text, retryable=True)
