"""How a model is asked: what the options of `mlxk run` (or `/set` in a conversation) make of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DEFAULT_LENGTH = "the model's setting, else what fits"
"""How long a reply may be that nobody limits, in words."""


@dataclass(slots=True)
class Wishes:
    """What the user wants of each answer. None: the model's own default."""

    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        """As fields of a request, without the system prompt, which is a message."""
        # The server would keep half of the context for others; this user is here alone.
        limit = {"context_share": 1.0} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        chosen = {name: value for name, value in sampling.items() if value is not None}
        return {**limit, **chosen, **({"stop": list(self.stop)} if self.stop else {})}

    def instructions(self) -> list[dict[str, Any]]:
        """The message in front of all others, if there is one."""
        return [] if self.system is None else [{"role": "system", "content": self.system}]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a conversation goes, from its beginning to its end."""

    hide_reasoning: bool = False
    stream: bool = True
    plain: bool = False
    """Human: and Assistant: instead of the model's chat template."""


RANGES: dict[str, tuple[type[int] | type[float], float, float]] = {
    "max_tokens": (int, 1, 2**31 - 1),
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
    "seed": (int, -(2**63), 2**63 - 1),
}
"""Settings that are numbers: their kind, the least and the most."""


def checked_number(name: str, value: Any) -> int | float:
    """`value`, a number or a text, as the setting wants it. Raises ValueError that says what it wants."""
    kind, least, most = RANGES[name]
    try:
        number = kind(value)
        good = not isinstance(value, bool) and float(number) == float(value) and least <= number <= most
    except (ValueError, TypeError, OverflowError):
        good = False
    if not good or number in (float("inf"), float("-inf")):
        bounds = f" of at least {least}" if most > 2**30 else f" from {least} to {most}"
        wanted = ("a whole number" if kind is int else "a number") + ("" if name == "seed" else bounds)
        raise ValueError(f"{name} is {wanted}, not {str(value)[:40]!r}")
    return number
