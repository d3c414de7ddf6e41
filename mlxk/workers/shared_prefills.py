"""Prompts that begin alike and come together: the common part is computed once.

A request whose prompt's beginning is being computed by another one right now waits until that one is through
with it; one whose beginning has been computed by a running request gets a copy of that. Without this eight
requests with one long system prompt compute it eight times (docs/decisions/0030-few-copies-of-a-prefix.md).

Nothing can wait for ever: who waits, waits for a sequence that is in the batch, and is looked at after every
step and after every abort. When that sequence has left, for whatever reason, the wait is over.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlxk.workers.prefix_cache import TOKEN_BYTES, PrefixCache, shared_tokens
from mlxk.workers.running_batch import RunningBatch
from mlxk.workers.sequences import Sequence

MIN_GAIN_TOKENS = 64
"""For fewer it is quicker to compute them again than to wait a step or to copy a cache."""


@dataclass(frozen=True, slots=True)
class Wait:
    sequence: Sequence
    leader: Sequence
    """Computes the beginning of its prompt."""
    until: int
    """Tokens that the leader must have computed."""


class SharedPrefills:
    """Used by the engine thread only. Who waits is in the register by its id, and not in the batch."""

    def __init__(self, running: RunningBatch, prefixes: PrefixCache, *, untrimmable: bool) -> None:
        self._running = running
        self._prefixes = prefixes
        self._untrimmable = untrimmable
        self._waits: list[Wait] = []

    def holds(self, sequence: Sequence) -> bool:
        """True: it waits, and `released` gives it back. False: it can start with what the cache has."""
        found = self._leader(sequence) if sequence.may_wait else None
        if found is None:
            return False
        leader, n_shared = found
        if _has_computed(leader, n_shared):
            self._running.keep_copy(leader)
            return False
        self._waits.append(Wait(sequence, leader, n_shared))
        self._running.by_id[sequence.request.id] = sequence
        return True

    def released(self) -> list[Sequence]:
        """Those that can start now, in the order in which they came; after each step and each abort."""
        if not self._waits:
            return []
        waits, self._waits = self._waits, []
        free: list[Sequence] = []
        copied: set[int] = set()
        for wait in waits:
            sequence, leader = wait.sequence, wait.leader
            if self._running.by_id.get(sequence.request.id) is not sequence:
                continue  # it was aborted
            is_running = self._running.by_uid.get(leader.uid) is leader
            if is_running and not _has_computed(leader, wait.until):
                self._waits.append(wait)
                continue
            if is_running and not self._untrimmable and leader.uid not in copied:
                self._running.keep_copy(leader)
                copied.add(leader.uid)
            # A leader that left early hands its place on. One that was through with it does so only if its
            # work could be kept: else each would wait for the one before it, in vain.
            is_kept = self._prefixes.longest(sequence.key) > wait.until - MIN_GAIN_TOKENS
            sequence.may_wait = is_kept or not _has_computed(leader, wait.until)
            free.append(sequence)
        return free

    def _leader(self, sequence: Sequence) -> tuple[Sequence, int] | None:
        """The running sequence that has, or will have computed the most of this prompt's beginning, and how
        much that is; None where the cache has nearly as much."""
        key, usable = sequence.key, len(sequence.prompt.tokens) - 1
        if usable < MIN_GAIN_TOKENS or self._prefixes.max_bytes == 0:
            return None
        head = key[: MIN_GAIN_TOKENS * TOKEN_BYTES]
        alike = [other for other in self._running.by_uid.values() if other.key.startswith(head)]
        if not alike:
            return None
        best, most = None, self._prefixes.longest(key) + MIN_GAIN_TOKENS - 1
        for other in alike:
            if not other.key.startswith(key[: (most + 1) * TOKEN_BYTES]):
                continue  # one comparison, where to find out how much is shared takes a dozen
            n_shared = min(shared_tokens(other.key, key), usable)
            if self._untrimmable:
                n_shared = _last_checkpoint(other, n_shared)
                if _has_computed(other, n_shared):  # it is in the cache, if there was room for it
                    continue
            if n_shared > most:
                best, most = other, n_shared
        return None if best is None else (best, most)


def _has_computed(sequence: Sequence, n_tokens: int) -> bool:
    return sequence.generated > 0 or sequence.computed >= n_tokens


def _last_checkpoint(sequence: Sequence, n_tokens: int) -> int:
    """The last position within `n_tokens` at which a cache that cannot be trimmed is kept."""
    places = (*sequence.boundaries, *sequence.checkpoints, len(sequence.prompt.tokens) - 1)
    return max((place for place in places if place <= n_tokens), default=0)
