"""The prefix cache against a list that is searched from one end to the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxk.workers.prefix_cache import MAX_WALK, TRIAL_SHARE, PrefixCache, shared_tokens, token_key

BYTES_PER_TOKEN = 10


@dataclass(frozen=True)
class FakeLayer:
    """A "KV cache" that says itself what it holds."""

    tokens: tuple[int, ...]
    trimmable: bool


class FakeOps:
    def is_trimmable(self, cache: list[FakeLayer]) -> bool:
        return all(layer.trimmable for layer in cache)

    def trimmed(self, cache: list[FakeLayer], drop_tokens: int) -> list[FakeLayer]:
        assert self.is_trimmable(cache)
        assert drop_tokens > 0
        return [replace(layer, tokens=layer.tokens[:-drop_tokens]) for layer in cache]

    def nbytes(self, cache: list[FakeLayer]) -> int:
        return sum(BYTES_PER_TOKEN * len(layer.tokens) for layer in cache)


@dataclass
class Model:
    """The same rules, without an index. `entries` is in order of use, the oldest first."""

    max_bytes: int
    entries: list[tuple[tuple[int, ...], bool]] = field(default_factory=list)
    on_trial: set[tuple[int, ...]] = field(default_factory=set)
    hits: int = 0
    misses: int = 0
    reused: int = 0

    @property
    def nbytes(self) -> int:
        return sum(BYTES_PER_TOKEN * len(tokens) for tokens, _ in self.entries)

    def usable(self, prompt: tuple[int, ...]) -> int:
        best = 0
        for tokens, trimmable in self.entries:
            length = min(shared(tokens, prompt), len(prompt) - 1)
            if trimmable or length == len(tokens):
                best = max(best, length)
        return best

    def candidates(self, prompt: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Entries that can serve as many tokens as any can."""
        best = self.usable(prompt)
        return [
            tokens
            for tokens, trimmable in self.entries
            if best
            and min(shared(tokens, prompt), len(prompt) - 1) >= best
            and (trimmable or len(tokens) == best)
        ]

    def use(self, tokens: tuple[int, ...]) -> None:
        entry = next(entry for entry in self.entries if entry[0] == tokens)
        self.entries.remove(entry)
        self.entries.append(entry)
        self.on_trial.discard(tokens)

    def evict(self, max_bytes: int) -> None:
        while self.entries and self.nbytes > max_bytes:
            trial = [entry for entry in self.entries if entry[0] in self.on_trial]
            nbytes = sum(BYTES_PER_TOKEN * len(tokens) for tokens, _ in trial)
            self.entries.remove(trial[0] if nbytes > max_bytes * TRIAL_SHARE else self.entries[0])
            self.on_trial &= {tokens for tokens, _ in self.entries}


def shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


tokens = st.lists(st.sampled_from([0, 1, 255, 256, 70_000]), min_size=1, max_size=9).map(tuple)
operations = st.lists(
    st.tuples(st.sampled_from(["store", "store", "try"]), tokens, st.booleans())
    | st.tuples(st.just("fetch"), tokens, st.just(False))
    | st.tuples(st.just("trim"), st.integers(0, 300), st.just(False)),
    max_size=40,
)
KINDS: dict[str, Callable[[bool], bool]] = {
    "always trimmable": lambda _: True,
    "never trimmable": lambda _: False,
    "mixed": lambda drawn: drawn,
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150)
@given(operations, st.integers(0, 400))
def test_it_finds_what_a_search_of_everything_finds(kind: str, steps: list, max_bytes: int) -> None:
    cache = PrefixCache(max_bytes, FakeOps())
    model = Model(max_bytes)
    for what, value, drawn in steps:
        if what in ("store", "try"):
            trimmable = KINDS[kind](drawn)
            cache.store(list(value), [FakeLayer(value, trimmable)], on_trial=what == "try")
            store_in_model(model, value, trimmable, on_trial=what == "try")
        elif what == "trim":
            cache.limit_to(value)
            max_bytes = model.max_bytes = value
            model.evict(value)
        else:
            fetch_both(cache, model, value)
        stats = cache.stats()
        assert stats.bytes <= max_bytes
        assert (stats.entries, stats.bytes) == (len(model.entries), model.nbytes)
        assert (stats.hits, stats.misses, stats.reused_tokens) == (model.hits, model.misses, model.reused)


def store_in_model(model: Model, value: tuple[int, ...], trimmable: bool, *, on_trial: bool) -> None:
    if BYTES_PER_TOKEN * len(value) > model.max_bytes:
        return
    longer = [
        t for t, can_trim in model.entries if can_trim and len(t) > len(value) and t[: len(value)] == value
    ]
    in_order = sorted(
        (t for t, _ in model.entries if t[: len(value)] == value), key=lambda t: token_key(list(t))
    )
    if in_order and in_order[0] in longer:
        model.use(in_order[0])  # it can do all that the new one could
        return
    model.entries = [entry for entry in model.entries if entry[0] != value]
    if trimmable:
        model.entries = [entry for entry in model.entries if value[: len(entry[0])] != entry[0]]
    model.entries.append((value, trimmable))
    model.on_trial &= {tokens for tokens, _ in model.entries if tokens != value}
    if on_trial:
        model.on_trial.add(value)
    model.evict(model.max_bytes)


def fetch_both(cache: PrefixCache, model: Model, prompt: tuple[int, ...]) -> None:
    assert cache.longest(token_key(list(prompt))) == model.usable(prompt)
    match = cache.fetch(token_key(list(prompt)))
    assert match.n_tokens == model.usable(prompt)
    if match.cache is None:
        assert match.n_tokens == 0
        model.misses += 1
        return
    assert 0 < match.n_tokens < len(prompt)
    # Never of another branch, never more or less than it says:
    assert match.cache[0].tokens == prompt[: match.n_tokens]
    model.hits += 1
    model.reused += match.n_tokens
    # Which of several equals was used shows in the order of eviction; follow the cache's choice.
    used = tuple(token_of_last_used(cache))
    assert used in model.candidates(prompt)
    model.use(used)


def token_of_last_used(cache: PrefixCache) -> list[int]:
    return list(memoryview(next(reversed(cache._entries))).cast("I"))


@given(tokens, tokens)
def test_shared_tokens_counts_whole_tokens(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert shared_tokens(token_key(list(a)), token_key(list(b))) == shared(a, b)


def stored(cache: PrefixCache, *entries: list[int], trimmable: bool = True) -> PrefixCache:
    for entry in entries:
        cache.store(entry, [FakeLayer(tuple(entry), trimmable)])
    return cache


def test_a_use_makes_an_entry_young() -> None:
    cache = stored(PrefixCache(60, FakeOps()), [1, 2], [3, 4], [5, 6])
    cache.fetch(token_key([1, 2, 9]))
    stored(cache, [7, 8])
    assert cache.fetch(token_key([1, 2, 9])).n_tokens == 2
    assert cache.fetch(token_key([3, 4, 9])).n_tokens == 0


def test_checkpoints_push_no_conversation_out_until_somebody_has_asked_for_them() -> None:
    cache = PrefixCache(90, FakeOps())
    stored(cache, [1, 2], [3, 4], [5, 6], trimmable=False)
    for i in range(9):
        cache.store([9] * (i % 3 + 1), [FakeLayer((9,) * (i % 3 + 1), False)], on_trial=True)
    for conversation in ([1, 2], [3, 4], [5, 6]):
        assert cache.longest(token_key([*conversation, 0])) == 2
    assert cache.fetch(token_key([9, 9, 9, 9])).n_tokens == 3  # the last one: the others made room for it
    stored(cache, [7, 7, 7], trimmable=False)  # now the conversations are the older ones
    assert cache.longest(token_key([1, 2, 0])) == 0
    assert cache.longest(token_key([9, 9, 9, 0])) == 3


def test_an_exact_repeat_leaves_one_token_to_compute() -> None:
    cache = stored(PrefixCache(1000, FakeOps()), [1, 2, 3])
    assert cache.fetch(token_key([1, 2, 3])).n_tokens == 2
    assert cache.fetch(token_key([1])).n_tokens == 0


def test_an_entry_larger_than_the_budget_pushes_nobody_out() -> None:
    cache = stored(PrefixCache(30, FakeOps()), [1, 2], list(range(50)))
    assert cache.fetch(token_key([1, 2, 3])).n_tokens == 2


def test_storing_again_replaces_and_counts_once() -> None:
    cache = stored(PrefixCache(1000, FakeOps()), [1, 2, 3], [1, 2, 3])
    assert (cache.stats().entries, cache.stats().bytes) == (1, 30)


def test_a_short_cache_that_can_be_cut_is_found_behind_longer_ones_that_cannot() -> None:
    """A system prompt's only short entry must not hide behind long conversations that begin alike."""
    system = [9, 9, 9]
    cache = stored(PrefixCache(10_000, FakeOps()), [*system, 5])
    stored(cache, *([*system, i] for i in (1, 2, 3, 4, 6, 7, 8)), trimmable=False)
    assert cache.fetch(token_key([*system, 3, 1])).n_tokens == 4  # whole
    assert cache.fetch(token_key([*system, 2**31, 1])).n_tokens == 3  # cut


def test_a_lookup_passes_by_only_so_many_entries() -> None:
    cache = stored(PrefixCache(10**6, FakeOps()), [9, 0])
    stored(cache, *([9, i] for i in range(1, 2 * MAX_WALK)), trimmable=False)
    assert cache.fetch(token_key([9, 255, 1])).n_tokens == 0
    assert cache.fetch(token_key([9, 1, 1])).n_tokens == 2


def test_clearing_forgets_everything_but_the_counts() -> None:
    cache = stored(PrefixCache(1000, FakeOps()), [1, 2, 3])
    cache.fetch(token_key([1, 2, 3, 4]))
    cache.clear()
    stats = cache.stats()
    assert (stats.entries, stats.bytes, stats.hits, stats.reused_tokens) == (0, 0, 1, 3)


def test_no_more_than_so_many_entries_are_kept() -> None:
    cache = stored(PrefixCache(10**6, FakeOps(), max_entries=3), *([i, i] for i in range(10)))
    assert cache.stats().entries == 3


@pytest.mark.parametrize("trimmable", [False, True])
def test_a_lookup_takes_no_longer_for_many_branches_off_its_path(trimmable: bool) -> None:
    """Each stored sequence leaves the prompt a token earlier: followed to the end, they were 100 ms for 4,096
    of 8,000 tokens, in which nobody's stream moved."""
    path = list(range(1000, 1600))
    branches = [[*path[:end], 0] for end in range(300, 600)]
    cache = stored(PrefixCache(10**9, FakeOps()), path[:2], *branches, trimmable=trimmable)
    keys = _Watched(cache._sorted)
    cache._sorted = keys
    # The whole one at the very beginning is out of sight; with caches that can be cut the nearest is best.
    assert cache.fetch(token_key(path)).n_tokens == (599 if trimmable else 0)
    assert keys.looked_at <= 12 * MAX_WALK  # each search by halves looks at nine; all of them: 3,000


class _Watched(list[bytes]):
    """Counts the places that are looked at one by one."""

    looked_at = 0

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, int):
            self.looked_at += 1
        return super().__getitem__(place)


def test_only_what_is_within_the_budget_fits() -> None:
    cache = PrefixCache(30, FakeOps())
    assert cache.fits([FakeLayer((1, 2, 3), True)])
    assert not cache.fits([FakeLayer((1, 2, 3, 4), True)])
