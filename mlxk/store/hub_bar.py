"""What huggingface_hub takes for a progress bar of its own: passes on the bytes, draws nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self


class ForwardingBar:
    """As much of tqdm as a download needs. (A real tqdm, also a silent one, starts a thread that stays.)"""

    def __init__(self, moved: Callable[[int], None], *_args: Any, **options: Any) -> None:
        self._moved = moved
        self.total = options.get("total")
        self.n = 0

    def update(self, n: float | None = 1) -> None:
        self.n += int(n or 0)
        self._moved(int(n or 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        """refresh, close, set_description, set_postfix_str, …: all about drawing."""
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_args, **_options: None
