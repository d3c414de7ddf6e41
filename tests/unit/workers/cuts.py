"""One text, cut into pieces in every way that hypothesis can think of."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st

cuts = st.lists(st.integers(0, 200), max_size=30)


def cut(text: str, at: list[int]) -> list[str]:
    """`text` in pieces; positions beyond its end and doubles make empty pieces, as real tokens do."""
    places = [0, *sorted(min(place, len(text)) for place in at), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places)]
