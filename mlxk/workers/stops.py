"""Stop strings, matched on text: across token boundaries, from inside a token, never leaking a part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    text: str
    """Everything before the match."""
    stop: str


class StopMatcher:
    """Holds back only what may still become a stop string.

    The result does not depend on how the text is cut into pieces: the match that is
    complete first wins, and of several that are complete at the same character the longest.
    """

    def __init__(self, stops: list[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def push(self, text: str) -> str | StopMatch:
        """The text that is safe to show now, or the match and the text before it."""
        if not self._stops:
            return text
        buffer = self._held + text
        match = self._first_match(buffer)
        if match is not None:
            self._held = ""
            return match
        keep = self._possible_start(buffer)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep]

    def flush(self) -> str:
        """The end of the text: what was held back did not become a stop string."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, buffer: str) -> StopMatch | None:
        best: tuple[int, int, str] | None = None
        for stop in self._stops:
            start = buffer.find(stop)
            if start >= 0 and (best is None or (start + len(stop), start) < best[:2]):
                best = (start + len(stop), start, stop)
        return None if best is None else StopMatch(buffer[: best[1]], best[2])

    def _possible_start(self, buffer: str) -> int:
        """Length of the longest end of `buffer` that begins a stop string."""
        for length in range(min(self._longest - 1, len(buffer)), 0, -1):
            tail = buffer[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
