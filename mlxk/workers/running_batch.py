"""The sequences that run, the batch they run in, and the prefixes that they leave behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mlxk.workers import kv_caches
from mlxk.workers import mlx_adapter as adapter
from mlxk.workers.prefix_cache import TOKEN_BYTES, PrefixCache
from mlxk.workers.sequence_maker import Controls
from mlxk.workers.sequences import Sequence, segments
from mlxk.workers.serial_batch import SerialBatch

log = logging.getLogger("mlxk.worker")

Batch = adapter.Batch | SerialBatch
Computed = tuple[list[Any], list[int]]
"""A sequence's KV cache, and the tokens that it holds."""


class RunningBatch:
    """Who leaves it goes out of the batch and of the register in one call; no way out raises."""

    def __init__(self) -> None:
        self.by_uid: dict[int, Sequence] = {}
        self.by_id: dict[str, Sequence] = {}
        self._damage: Exception | None = None

    def open(
        self,
        new_batch: Callable[[], Batch],
        controls: Callable[[Sequence], Controls],
        prefixes: PrefixCache,
    ) -> None:
        """Before anything else, when a model has been loaded."""
        self._new_batch = new_batch
        self._controls = controls
        self._prefixes = prefixes
        self.batch = new_batch()

    @property
    def is_open(self) -> bool:
        return hasattr(self, "batch")

    def close(self) -> None:
        self.batch.close()
        del self.batch  # and what it holds

    def renew(self) -> None:
        """An empty batch. The old one is closed first: dropped later it would undo our memory limits."""
        self.batch.close()
        self.batch = self._new_batch()
        self._damage = None

    def step(self) -> tuple[list[adapter.BatchToken], list[adapter.BatchProgress]]:
        """Raises whatever a model or a sampler raises; the batch is then in an unknown state."""
        if self._damage is not None:
            raise self._damage
        return self.batch.step()

    def insert(self, sequence: Sequence, cache: list[Any] | None, n_cached: int) -> None:
        """Start it, or start it again from the tokens it has."""
        if self._damage is not None and not self.by_uid:
            self.renew()
        controls = self._controls(sequence)
        sequence.uid = self.batch.insert(
            segments(sequence.tokens, n_cached, sequence.boundaries | sequence.checkpoints),
            cache=cache,
            cached_tokens=sequence.tokens[:n_cached],
            max_tokens=sequence.max_tokens - sequence.generated,
            sampler=controls.sampler,
            processors=controls.processors,
            stop_ids=controls.stop_ids,
        )
        sequence.computed = n_cached
        self.by_uid[sequence.uid] = sequence
        self.by_id[sequence.request.id] = sequence

    # --------------------------------------------------------------------- leaving

    def forget(self, sequence: Sequence) -> None:
        """The batch has let it go already."""
        self.by_uid.pop(sequence.uid, None)
        self.by_id.pop(sequence.request.id, None)

    def dismiss(self, sequence: Sequence) -> None:
        """Out, and what it has computed is kept."""
        self.keep(self._take_out(sequence.uid))
        self.forget(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Out, and what it has computed is not to be trusted."""
        self._take_out(sequence.uid)
        self.forget(sequence)

    def _take_out(self, uid: int) -> Computed | None:
        try:
            return self.batch.remove(uid)
        except Exception:
            log.exception("the prefix of a request that ended could not be taken out of the batch")
        try:
            self.batch.discard(uid)
        except Exception as error:
            # A row of nobody's would be computed on and on: the next step makes a new batch for the others.
            log.exception("a request that ended could not be taken out of the batch")
            self._damage = error
        return None

    # --------------------------------------------------------------------- keeping

    def keep(self, computed: Computed | None, *, on_trial: bool = False) -> None:
        """A prefix that cannot be kept costs the next request time, never this one its answer."""
        if computed is None:
            return
        try:
            cache, tokens = computed
            if self._prefixes.fits(cache):  # else the copy would only take memory that is short already
                self._prefixes.store(tokens, kv_caches.detach(cache), on_trial=on_trial)
        except Exception:
            log.exception("a prefix of %d tokens could not be kept", len(computed[1]))

    def keep_checkpoint(self, sequence: Sequence) -> None:
        """Of a sequence that has come to one, if it is not there already."""
        if not self._prefixes.has(sequence.key[: sequence.computed * TOKEN_BYTES]):
            self.keep_copy(sequence, on_trial=sequence.computed in sequence.checkpoints - sequence.boundaries)

    def keep_copy(self, sequence: Sequence, *, on_trial: bool = False) -> None:
        """Of a sequence that goes on."""
        try:
            copied = self.batch.extract(sequence.uid)
        except Exception:
            log.exception("the prefix of a running request could not be copied out of the batch")
            return
        self.keep(copied, on_trial=on_trial)
