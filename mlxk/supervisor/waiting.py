"""Those who wait for a model: requests and explicit loads, in the order of their arrival. The pool's own."""

from __future__ import annotations

import asyncio
import itertools

from mlxk.supervisor.records import Lease, Waiter
from mlxk.supervisor.views import WaiterView
from mlxk.workers.protocol import Fault, FaultError


class WaitingRoom:
    """Touched by the pool's task only, but for `new` and the reading of `queued` and `requests`."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiters: dict[int, Waiter] = {}

    def new(self, model: str, *, holds_lease: bool, is_brief: bool = False) -> Waiter:
        """Not in the room yet."""
        granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        return Waiter(next(self._numbers), model, granted, holds_lease, is_brief)

    def enter(self, waiter: Waiter) -> None:
        self._waiters[waiter.id] = waiter

    def leave(self, waiter_id: int) -> Waiter | None:
        """None if it is not here (any more)."""
        return self._waiters.pop(waiter_id, None)

    def refuse(self, waiter_id: int, reason: Fault) -> None:
        waiter = self._waiters.pop(waiter_id, None)
        if waiter is not None and not waiter.granted.done():
            waiter.granted.set_exception(FaultError(reason))

    def refuse_all(self, reason: Fault, model: str | None = None) -> None:
        """Everybody, or those who wait for one model."""
        for waiter in list(self._waiters.values()):
            if model is None or waiter.model == model:
                self.refuse(waiter.id, reason)

    def queued(self, model: str) -> int:
        """All who wait for it, explicit loads as well."""
        return sum(1 for waiter in self._waiters.values() if waiter.model == model)

    def requests(self, model: str) -> int:
        """Like `queued`, without the loads that nobody's request waits behind: for display."""
        return sum(1 for waiter in self._waiters.values() if waiter.model == model and waiter.holds_lease)

    def last_id(self, model: str) -> int:
        """The latest to come of those who wait for the model; 0 if nobody does."""
        return max((waiter.id for waiter in self._waiters.values() if waiter.model == model), default=0)

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def views(self) -> tuple[WaiterView, ...]:
        return tuple(
            WaiterView(w.id, w.model, w.holds_lease, w.since, w.is_brief) for w in self._waiters.values()
        )
