"""Imports without looking for garbage meanwhile."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def nothing_to_collect() -> Iterator[None]:
    """What imports make stays. To look through it for garbage, again and again as it grows, takes a fifth of
    the imports' time, and would go on in every full collection of the process."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
