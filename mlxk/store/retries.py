"""When to ask the hub again, and how long to wait before it. The decision is a pure function."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mlxk.store.hub_errors import CancelledError, TransferError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    attempts: int = 6
    """In a row without a byte in between; then it is given up."""
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0
    longest_asked_s: float = 330.0
    """The hub counts requests in windows of five minutes, and may ask to wait for the next one. More is no
    pause but a refusal."""


def wait_s(policy: RetryPolicy, failures: int, retry_after_s: float | None) -> float | None:
    """Seconds to wait after so many failures in a row; None: give up."""
    if failures >= policy.attempts:
        return None
    if retry_after_s is not None:
        return retry_after_s if retry_after_s <= policy.longest_asked_s else None
    return min(policy.longest_wait_s, policy.first_wait_s * 2.0 ** (failures - 1))


def with_retries(
    attempt: Callable[[], Result],
    policy: RetryPolicy,
    cancel: threading.Event,
    note: Callable[[str], None],
) -> Result:
    """Calls `attempt` until it returns, waiting in between; re-raises its last TransferError.

    `note` gets a sentence about every wait that somebody could notice. Raises CancelledError when `cancel`
    is set.
    """
    failures = 0
    while True:
        try:
            return attempt()
        except TransferError as error:
            failures = 1 if error.moved else failures + 1
            pause_s = wait_s(policy, failures, error.retry_after_s)
            if pause_s is None:
                raise
            note(f"{error}; again in {pause_s:.1f} s")
            # Four downloads that failed together must not all come back together.
            if cancel.wait(pause_s * random.uniform(1.0, 1.2)):
                raise CancelledError from error
