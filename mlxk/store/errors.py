"""Why a name leads to no usable model. Each message says what to do."""

from __future__ import annotations


class StoreError(Exception):
    """Base of all errors of the store."""


class UnknownModelError(StoreError):
    """No installed model has this name."""

    def __init__(self, name: str, nearest: tuple[str, ...] = ()) -> None:
        self.name = name
        self.nearest = nearest
        """Names that look alike, best first; at most three."""
        hint = f"Did you mean {' or '.join(nearest)}?" if nearest else "`mlxk list` shows what is installed."
        super().__init__(f"There is no model {_quoted(name)} here. {hint}")


class AmbiguousModelError(StoreError):
    """Several installed models fit this name."""

    def __init__(self, name: str, matches: tuple[str, ...]) -> None:
        self.name = name
        self.matches = matches
        """All that fit, sorted."""
        super().__init__(
            f"{_quoted(name)} fits several models: {', '.join(matches)}. Write more of the name."
        )


class UnhealthyModelError(StoreError):
    """The model is there but cannot be loaded."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"Model {_quoted(name)} cannot be used: {reason}.")


def _quoted(name: str) -> str:
    return f"'{name}'" if len(name) <= 200 else f"'{name[:200]}…'"
