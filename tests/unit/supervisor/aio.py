"""Running coroutines in tests: with a deadline, on a loop that is closed and drained afterwards."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

LIMIT_S = 60.0
"""Some start real processes with a real model: 3 s here, and many times that on a busy machine."""


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Makes a coroutine function a test; what hangs fails after LIMIT_S."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(LIMIT_S):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


async def turns(count: int = 20) -> None:
    """Let tasks that are ready run, without waiting for time to pass."""
    for _ in range(count):
        await asyncio.sleep(0)
