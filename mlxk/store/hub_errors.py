"""Why a download, a removal, a conversion or an upload cannot be done. Each message says what to do."""

from __future__ import annotations

from typing import Any

from mlxk.store.errors import StoreError


class OperationError(StoreError):
    """`type` is what a script may rely on; `details` go into the JSON envelope beside it."""

    def __init__(self, type: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.type = type
        self.details = details


class TransferError(Exception):
    """One attempt at a request failed, and another may succeed."""

    def __init__(self, message: str, retry_after_s: float | None = None, *, moved: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """What the hub asked for."""
        self.moved = moved
        """Bytes came before it failed, so the count of attempts begins anew."""


class CancelledError(Exception):
    """Somebody else's failure, or a Ctrl-C, ends this piece of work."""
