"""The worker's memory of prompts it has computed: longest match, byte budget, real recency.

Keys are kept in one sorted list of token bytes. In such an order the stored sequence that shares the
longest beginning with a prompt is a neighbour of the prompt's place, so a lookup is two binary searches
and no walk over tokens (docs/decisions/0005-prefix-cache.md says why not mlx_lm's LRUPromptCache).
"""

from __future__ import annotations

import bisect
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

from mlxk.workers.protocol import CacheStats

TOKEN_BYTES = 4
MAX_ENTRIES = 4096
TRIAL_SHARE = 0.25
"""So much of a full budget may be checkpoints that nobody has asked for; conversations have the rest."""
MAX_WALK = 64
"""How many entries that are of no use a lookup passes by, each way. A lookup delays everybody's next token:
it may not take longer for what happens to be stored."""


class CacheOps(Protocol):
    """What can be done with a model's KV cache (a list with one cache object a layer)."""

    def is_trimmable(self, cache: list[Any]) -> bool: ...

    def trimmed(self, cache: list[Any], drop_tokens: int) -> list[Any]:
        """A copy without the last `drop_tokens`, sharing the arrays; the original stays as it is."""

    def nbytes(self, cache: list[Any]) -> int: ...


@dataclass(frozen=True, slots=True)
class Entry:
    cache: list[Any]
    n_tokens: int
    nbytes: int
    trimmable: bool


@dataclass(frozen=True, slots=True)
class Match:
    """What a prompt can start from. `n_tokens` is 0 where there is nothing."""

    cache: list[Any] | None
    n_tokens: int


def token_key(tokens: list[int]) -> bytes:
    return array("I", tokens).tobytes()


def shared_tokens(a: bytes, b: bytes) -> int:
    """Number of tokens with which both keys begin. Halving compares by memcmp, not token by token."""
    low, high = 0, min(len(a), len(b)) // TOKEN_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if a[low * TOKEN_BYTES : middle * TOKEN_BYTES] == b[low * TOKEN_BYTES : middle * TOKEN_BYTES]:
            low = middle
        else:
            high = middle - 1
    return low


class PrefixCache:
    """Computed prefixes of one model. Used by the engine thread only."""

    def __init__(self, max_bytes: int, ops: CacheOps, max_entries: int = MAX_ENTRIES) -> None:
        self.max_bytes = max_bytes
        self._max_entries = max_entries
        self._ops = ops
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._on_trial: OrderedDict[bytes, Entry] = OrderedDict()
        """Those of the entries that nobody has asked for, and that nobody may ever ask for."""
        self._sorted: list[bytes] = []
        self._bytes = 0
        self._trial_bytes = 0
        self._hits = 0
        self._misses = 0
        self._reused_tokens = 0

    def stats(self) -> CacheStats:
        return CacheStats(len(self._entries), self._bytes, self._hits, self._misses, self._reused_tokens)

    def fetch(self, key: bytes) -> Match:
        """The longest usable prefix of the tokens of `key`, at most all but one: the last token must be
        computed anew.

        The cache returned is the stored one or shares its arrays: whoever extends it must not write to them.
        """
        best_key, best = self._find(key)
        if best == 0:
            self._misses += 1
            return Match(None, 0)
        self._hits += 1
        self._reused_tokens += best
        self._use(best_key)
        entry = self._entries[best_key]
        drop = entry.n_tokens - best
        return Match(self._ops.trimmed(entry.cache, drop) if drop else entry.cache, best)

    def has(self, key: bytes) -> bool:
        """Whether exactly this is kept; if so it counts as stored again."""
        if key not in self._entries:
            return False
        self._entries.move_to_end(key)
        return True

    def longest(self, key: bytes) -> int:
        """How many tokens `fetch` would find. Asking is no use."""
        return self._find(key)[1]

    def _find(self, key: bytes) -> tuple[bytes, int]:
        usable = len(key) // TOKEN_BYTES - 1
        best_key, best = b"", 0
        for direction in self._neighbours(key):
            nearest = next((k for k in direction if self._entries[k].trimmable), None)
            if nearest is not None and (length := min(shared_tokens(nearest, key), usable)) > best:
                best_key, best = nearest, length
        whole = self._longest_whole_prefix(key[: usable * TOKEN_BYTES], at_least=best)
        if whole is not None:
            best_key, best = whole, len(whole) // TOKEN_BYTES
        return best_key, best

    def fits(self, cache: list[Any]) -> bool:
        """Whether `store` would keep it. Asked first, what will not be kept need not be copied out."""
        return self._ops.nbytes(cache) <= self.max_bytes

    def store(self, tokens: list[int], cache: list[Any], *, on_trial: bool = False) -> None:
        """Keep what a request computed. `cache` must hold exactly `tokens`, and no other arrays with them.

        `on_trial`: it is a guess that somebody will ask for it. Until somebody does, it is among those that
        have to make do with a TRIAL_SHARE of the budget when there is no room for all.
        """
        if not tokens or not self.fits(cache):
            return
        nbytes = self._ops.nbytes(cache)
        key = token_key(tokens)
        entry = Entry(cache, len(tokens), nbytes, self._ops.is_trimmable(cache))
        longer = self._extension(key)
        if longer is not None and longer != key and self._entries[longer].trimmable:
            self._use(longer)  # it can serve all that this one could
            return
        self._remove(key)
        if entry.trimmable:
            while (shorter := self._longest_whole_prefix(key)) is not None:
                self._remove(shorter)
        self._entries[key] = entry
        bisect.insort(self._sorted, key)
        self._bytes += nbytes
        if on_trial:
            self._on_trial[key] = entry
            self._trial_bytes += nbytes
        self._evict(self.max_bytes, self._max_entries)

    def limit_to(self, max_bytes: int) -> None:
        """A new budget. The least recently used entries go until it is kept."""
        self.max_bytes = max_bytes
        self._evict(max_bytes, self._max_entries)

    def clear(self) -> None:
        self._evict(0, 0)

    def _neighbours(self, key: bytes) -> tuple[list[bytes], list[bytes]]:
        """Stored keys from the place of `key` outwards, each way; the nearest share the most with it.

        More than the nearest, because that one may be a cache that cannot be cut back to what is shared.
        """
        place = bisect.bisect_left(self._sorted, key)
        before = self._sorted[max(0, place - MAX_WALK) : place]
        return before[::-1], self._sorted[place : place + MAX_WALK]

    def _extension(self, key: bytes) -> bytes | None:
        """A stored key that begins with `key` (or is it)."""
        place = bisect.bisect_left(self._sorted, key)
        if place < len(self._sorted) and self._sorted[place].startswith(key):
            return self._sorted[place]
        return None

    def _longest_whole_prefix(self, key: bytes, at_least: int = 0) -> bytes | None:
        """The longest stored key with which `key` begins, of `at_least` so many tokens.

        Each round shortens `key` to what the stored key before it shares with it.
        """
        for _ in range(MAX_WALK):
            place = bisect.bisect_right(self._sorted, key) - 1
            if place < 0 or len(key) < at_least * TOKEN_BYTES:
                return None
            candidate = self._sorted[place]
            if key.startswith(candidate):
                return candidate if len(candidate) >= at_least * TOKEN_BYTES else None
            key = key[: shared_tokens(candidate, key) * TOKEN_BYTES]
        return None

    def _use(self, key: bytes) -> None:
        self._entries.move_to_end(key)
        self._pass_trial(key)

    def _pass_trial(self, key: bytes) -> None:
        entry = self._on_trial.pop(key, None)
        if entry is not None:
            self._trial_bytes -= entry.nbytes

    def _remove(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._pass_trial(key)
            del self._sorted[bisect.bisect_left(self._sorted, key)]
            self._bytes -= entry.nbytes

    def _evict(self, max_bytes: int, max_entries: int) -> None:
        while self._entries and (self._bytes > max_bytes or len(self._entries) > max_entries):
            crowded = self._trial_bytes > max_bytes * TRIAL_SHARE
            self._remove(next(iter(self._on_trial if crowded else self._entries)))
