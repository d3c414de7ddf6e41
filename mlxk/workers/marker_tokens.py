"""Tokens that would end a marker and go on behind it. Where a marker is a token of its own there are none."""

from __future__ import annotations

from typing import Any


def begun(text: str, marker: str) -> str:
    """The end of `text` that may be the beginning of `marker`."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return text[-length:]
    return ""


class Overruns:
    """Of one marker and vocabulary. What stands behind the marker belongs to a grammar, which may not allow
    it: such tokens are not to be chosen. White space may follow; nobody minds it there."""

    def __init__(self, backend: Any, marker: str) -> None:
        """`backend` is a tokenizers.Tokenizer. Reads its whole vocabulary: about 0.1 s for 150,000 tokens."""
        self._marker = marker
        last = marker[-1]
        inside = [token for written, token in backend.get_vocab().items() if last in written[:-1]]
        texts = {token: backend.decode([token], skip_special_tokens=False) for token in sorted(inside)}
        self._texts = {token: text for token, text in texts.items() if last in text.rstrip()[:-1]}

    def after(self, begun: str) -> list[int]:
        """Where `begun`, perhaps nothing, is written of the marker."""
        found = []
        for token, text in self._texts.items():
            _, marker, rest = (begun + text).partition(self._marker)
            if marker and rest.strip():
                found.append(token)
        return found
