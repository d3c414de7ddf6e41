"""What an endless load counts, and whoever measures reads."""

from __future__ import annotations

import mmap
from pathlib import Path

from bench.client import Stream


class Counter:
    """Shared by the load's process, which counts, and the bench, which reads. One page of a file."""

    _ARRIVALS, _ENDED_ARRIVALS, _ENDED_TOKENS, _CACHED, _PROMPT, _STOP = range(6)

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._cells = memoryview(self._map).cast("Q")

    @classmethod
    def make(cls, folder: Path, name: str) -> tuple[Path, Counter]:
        path = folder / name
        path.write_bytes(bytes(mmap.PAGESIZE))
        return path, cls(path)

    def arrived(self, n: int = 1) -> None:
        """So many pieces of text (or tokens, where there is no text)."""
        self._cells[self._ARRIVALS] += n

    def ended(self, stream: Stream) -> None:
        self._cells[self._ENDED_ARRIVALS] += len(stream.arrivals)
        self._cells[self._ENDED_TOKENS] += stream.tokens
        self._cells[self._CACHED] += stream.cached_tokens
        self._cells[self._PROMPT] += int(stream.usage.get("prompt_tokens") or 0)

    def stop(self) -> None:
        self._cells[self._STOP] = 1

    @property
    def stopped(self) -> bool:
        return bool(self._cells[self._STOP])

    @property
    def arrivals(self) -> int:
        return int(self._cells[self._ARRIVALS])

    @property
    def tokens_per_arrival(self) -> float:
        """Not every token brings text, and some pieces bring several tokens' text. 1.0 until a request has
        ended: only then its tokens are known."""
        arrivals = self._cells[self._ENDED_ARRIVALS]
        return self._cells[self._ENDED_TOKENS] / arrivals if arrivals else 1.0

    @property
    def cached_share(self) -> float:
        return self._cells[self._CACHED] / max(1, self._cells[self._PROMPT])
