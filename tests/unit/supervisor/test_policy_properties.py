"""The policies in a simulated pool: any order of events, and in the end everybody has had an answer.

The simulation carries decisions out as the pool does, without processes and without time of its own.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mlxk.supervisor import admission, eviction, restarts
from mlxk.supervisor.states import ModelState
from mlxk.supervisor.views import ModelView, PoolView, WaiterView

LIMIT = 10
MAX_IN_FLIGHT = 2
QUEUE_PER_MODEL = 3
QUEUE_TOTAL = 6


@dataclass
class Model:
    name: str
    cost: int
    pinned: bool
    keep_alive_s: float
    state: ModelState = ModelState.ABSENT
    leases: int = 0
    last_used: float = 0.0
    failed: bool = False
    deaths: tuple[float, ...] = ()
    retry_at: float = 0.0
    cache: int = 0
    """Of its cost: what may be trimmed away."""
    trimming: int = 0
    trimmed: int = 0
    ready_at: float = 0.0
    last_load: float = 0.0
    batch_end: int = 0
    owed: set[int] = field(default_factory=set)
    """Who had queued when its turn began and has not been granted, refused, or left."""

    @property
    def has_worker(self) -> bool:
        return self.state in (ModelState.LOADING, ModelState.READY, ModelState.STOPPING)

    @property
    def charge(self) -> int:
        """What it takes of the budget."""
        return self.cost - self.trimmed


@dataclass
class Tally:
    arrived: set[int] = field(default_factory=set)
    granted: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    left: set[int] = field(default_factory=set)


class SimulatedPool(RuleBasedStateMachine):
    @initialize(
        costs=st.lists(st.sampled_from([2, 4, 5, 6, 8, 12]), min_size=2, max_size=4),
        pins=st.lists(st.booleans(), min_size=4, max_size=4),
        max_models=st.sampled_from([0, 0, 1, 2]),
        keep_alive_s=st.sampled_from([-1.0, -1.0, 0.0, 5.0]),
        caches=st.lists(st.integers(0, 4), min_size=4, max_size=4),
        swap_after_s=st.sampled_from([-1.0, 0.0, 4.0]),
        max_wait_s=st.sampled_from([1e9, 1e9, 20.0, 0.0]),
    )
    def set_up(
        self,
        costs: list[int],
        pins: list[bool],
        max_models: int,
        keep_alive_s: float,
        caches: list[int],
        swap_after_s: float,
        max_wait_s: float,
    ) -> None:
        self.now = 0.0
        self.swap_after_s = swap_after_s
        self.max_wait_s = max_wait_s
        self.came_at: dict[int, float] = {}
        self.max_models = max_models
        self.models = {
            f"m{number}": Model(f"m{number}", cost, pins[number] and number == 0, keep_alive_s)
            for number, cost in enumerate(costs)
        }
        for model, cache in zip(self.models.values(), caches, strict=False):
            model.cache = min(cache, model.cost)
        self.waiters: dict[int, tuple[str, bool]] = {}
        self.next_id = 0
        self.tally = Tally()
        self.undecided = False

    # ------------------------------------------------------------------ events

    @rule(
        picks=st.lists(st.integers(0, 3), min_size=1, max_size=3),
        holds_lease=st.sampled_from([True, True, True, False]),
        alone=st.sampled_from([True, True, False]),
    )
    def arrive(self, picks: list[int], holds_lease: bool, alone: bool) -> None:
        """Several may arrive, and other things happen, before the pool decides."""
        for pick in picks:
            self.next_id += 1
            self.waiters[self.next_id] = (self.names[pick % len(self.names)], holds_lease)
            self.came_at[self.next_id] = self.now
            self.tally.arrived.add(self.next_id)
        self.undecided = True
        if alone:
            self.turn()

    @precondition(lambda self: self.waiters)
    @rule(pick=st.integers(0, 100))
    def leave(self, pick: int) -> None:
        waiter = sorted(self.waiters)[pick % len(self.waiters)]
        del self.waiters[waiter]
        self.tally.left.add(waiter)
        self.turn()

    @precondition(lambda self: any(m.leases for m in self.models.values()))
    @rule(pick=st.integers(0, 3))
    def finish(self, pick: int) -> None:
        busy = [m.name for m in self.models.values() if m.leases]
        self.end_lease(busy[pick % len(busy)])
        self.turn()

    @precondition(lambda self: self.in_state(ModelState.LOADING))
    @rule(pick=st.integers(0, 3))
    def loaded(self, pick: int) -> None:
        names = self.in_state(ModelState.LOADING)
        self.complete_load(names[pick % len(names)])
        self.turn()

    @precondition(lambda self: self.in_state(ModelState.STOPPING))
    @rule(pick=st.integers(0, 3))
    def exited(self, pick: int) -> None:
        names = self.in_state(ModelState.STOPPING)
        self.reap(names[pick % len(names)])
        self.turn()

    @precondition(lambda self: any(m.has_worker for m in self.models.values()))
    @rule(pick=st.integers(0, 7))
    def died(self, pick: int) -> None:
        if pick >= len(self.names):
            return  # deaths are rare
        model = self.models[self.names[pick]]
        if model.has_worker:
            if model.state is ModelState.LOADING:
                self.refuse_all(model.name)
            model.failed = True
            self.reap(model.name, died=True)
        self.turn()

    @rule(pick=st.integers(0, 15))
    def stopped_by_somebody(self, pick: int) -> None:
        if pick >= len(self.names):
            return
        model = self.models[self.names[pick]]
        self.refuse_all(model.name)
        if model.has_worker:
            model.state, model.trimming = ModelState.STOPPING, 0
        self.turn()

    @precondition(lambda self: any(m.trimming for m in self.models.values()))
    @rule()
    def confirmed(self) -> None:
        self.confirm_trim(next(m.name for m in self.models.values() if m.trimming))
        self.turn()

    @rule(seconds=st.sampled_from([0.5, 3.0, 10.0]))
    def tick(self, seconds: float) -> None:
        self.pass_time(seconds)
        self.turn()

    # ------------------------------------------------------------- what the pool does

    @property
    def names(self) -> list[str]:
        return list(self.models)

    def in_state(self, state: ModelState) -> list[str]:
        return [m.name for m in self.models.values() if m.state is state]

    def view(self) -> PoolView:
        return PoolView(
            now=self.now,
            memory_limit_bytes=LIMIT,
            max_models=self.max_models,
            max_in_flight=MAX_IN_FLIGHT,
            models=tuple(
                ModelView(
                    name=m.name,
                    state=m.state,
                    cost_bytes=m.charge,
                    has_worker=m.has_worker,
                    in_flight=m.leases,
                    queued=sum(1 for name, _ in self.waiters.values() if name == m.name),
                    last_used=m.last_used,
                    keep_alive_s=m.keep_alive_s,
                    pinned=m.pinned,
                    fault_text="failed",
                    trimmable_bytes=m.cache - m.trimmed - m.trimming if m.has_worker else 0,
                    trimming_bytes=m.trimming,
                    trimmed_bytes=m.trimmed,
                    ready_at=m.ready_at,
                    last_load=self.now if m.state is ModelState.LOADING else m.last_load,
                    batch_end=m.batch_end,
                )
                for m in self.models.values()
            ),
            waiters=tuple(
                WaiterView(number, name, holds, self.came_at[number])
                for number, (name, holds) in sorted(self.waiters.items())
            ),
            max_wait_s=self.max_wait_s,
            swap_after_s=self.swap_after_s,
            queue_per_model=QUEUE_PER_MODEL,
            queue_total=QUEUE_TOTAL,
        )

    def turn(self) -> None:
        view = self.view()
        decisions = admission.decide(view)
        self.undecided = False
        self.check_order(view, decisions)
        for decision in decisions:
            self.carry_out(decision)

    def carry_out(self, decision: admission.Decision) -> None:
        match decision:
            case admission.Grant(waiter):
                name, holds_lease = self.waiters.pop(waiter)
                model = self.models[name]
                assert model.state is ModelState.READY
                model.leases += holds_lease
                model.last_used = self.now
                assert model.leases <= MAX_IN_FLIGHT
                self.tally.granted.add(waiter)
            case admission.StartLoad(name):
                model = self.models[name]
                assert model.state is ModelState.ABSENT
                model.state = ModelState.LOADING
            case admission.StopIdle(name):
                model = self.models[name]
                assert model.state is ModelState.READY
                assert not model.leases, "a busy victim"
                assert not model.pinned, "a pinned victim"
                if name in {wanted for wanted, _ in self.waiters.values()}:
                    self.check_end_of_turn(model)
                model.state, model.trimming = ModelState.STOPPING, 0
            case eviction.Trim(name, released):
                model = self.models[name]
                assert model.state is ModelState.READY
                assert not model.leases, "a busy model was asked to trim"
                assert 0 < released <= model.cache - model.trimmed - model.trimming
                model.trimming += released
            case admission.Refuse(waiter, _):
                del self.waiters[waiter]
                self.tally.refused.add(waiter)

    def check_end_of_turn(self, model: Model) -> None:
        """A model that is still wanted goes only after its turn, for one that has waited as long."""
        assert self.swap_after_s >= 0, "a wanted victim"
        assert self.now - model.ready_at >= self.swap_after_s
        waiting = self.waiters.keys()
        assert not {w for w in model.owed & waiting if self.waiters[w][1]}, "a batch was not served"
        mine = [w for w in waiting if self.waiters[w] == (model.name, True)]
        others = [w for w in waiting if self.waiters[w][0] != model.name]
        assert min(others) < min(mine, default=self.next_id + 1), "a later waiter took the room"
        assert self.now - self.came_at[min(others)] >= self.swap_after_s

    def check_order(self, view: PoolView, decisions: list[admission.Decision]) -> None:
        """No load is started for a waiter behind one that waits for room."""
        started = [d.model for d in decisions if isinstance(d, admission.StartLoad)]
        ended = {d.waiter for d in decisions if isinstance(d, admission.Grant | admission.Refuse)}
        wanted = [
            waiter.model
            for waiter in view.waiters
            if waiter.id not in ended and view.model(waiter.model).state is ModelState.ABSENT
        ]
        in_order = list(dict.fromkeys(wanted))  # a model comes when its first waiter did
        assert in_order[: len(started)] == started

    def refuse_all(self, name: str) -> None:
        for waiter in [w for w, (wanted, _) in self.waiters.items() if wanted == name]:
            del self.waiters[waiter]
            self.tally.refused.add(waiter)

    def end_lease(self, name: str) -> None:
        model = self.models[name]
        if model.leases:
            model.leases -= 1
            model.last_used = self.now

    def complete_load(self, name: str) -> None:
        model = self.models[name]
        if model.state is ModelState.LOADING:
            model.state, model.last_used = ModelState.READY, self.now
            model.ready_at = model.last_load = self.now
            model.owed = {w for w, (wanted, _) in self.waiters.items() if wanted == name}
            model.batch_end = max(model.owed, default=0)

    def confirm_trim(self, name: str) -> None:
        model = self.models[name]
        if model.state is not ModelState.READY:
            return  # its end brings back more
        model.trimmed, model.trimming = model.trimmed + model.trimming, 0

    def reap(self, name: str, *, died: bool = False) -> None:
        model = self.models[name]
        if model.state is not ModelState.STOPPING and not died:
            return
        model.leases, model.state = 0, ModelState.ABSENT
        model.trimming = model.trimmed = 0
        if model.failed:
            model.failed = False
            model.deaths = (*model.deaths, self.now)[-restarts.MAX_DEATHS :]
            match restarts.after_death(model.deaths, self.now):
                case restarts.RetryAt(when) if when > self.now:
                    model.state, model.retry_at = ModelState.BACKOFF, when
                case restarts.GiveUp():
                    model.state = ModelState.FAILED

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for model in self.models.values():
            if model.state is ModelState.BACKOFF and self.now >= model.retry_at:
                model.state = ModelState.ABSENT
        for name in eviction.expired(self.view()):
            model = self.models[name]
            assert model.state is ModelState.READY
            assert not model.leases
            assert not model.pinned
            model.state, model.trimming = ModelState.STOPPING, 0
        for trim in eviction.balance(self.view()):
            self.models[trim.model].trimmed += trim.release_bytes
            assert trim.release_bytes < 0, "nothing was over its limit"
            assert self.models[trim.model].trimmed >= 0

    # -------------------------------------------------------------- what always holds

    @invariant()
    def never_over_the_limits(self) -> None:
        if not hasattr(self, "models"):
            return
        present = [m for m in self.models.values() if m.has_worker]
        assert sum(m.charge for m in present) <= LIMIT
        assert not self.max_models or len(present) <= self.max_models

    @invariant()
    def the_queue_is_bounded(self) -> None:
        if hasattr(self, "waiters") and not self.undecided:
            assert len(self.waiters) <= QUEUE_TOTAL

    def teardown(self) -> None:
        """Requests end, loads complete, processes exit, time passes: then nobody waits any more."""
        if not hasattr(self, "models"):
            return
        for _ in range(60):
            for name in self.names:
                self.complete_load(name)
                self.confirm_trim(name)
                self.reap(name)
            self.turn()
            for name in self.names:
                self.end_lease(name)
            self.turn()
            self.pass_time(restarts.MAX_WAIT_S)
        assert not self.waiters, f"still waiting: {self.waiters}; {self.models}"
        tally = self.tally
        assert tally.granted | tally.refused | tally.left == tally.arrived
        assert not tally.granted & tally.refused


TestSimulatedPool = SimulatedPool.TestCase
TestSimulatedPool.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# ------------------------------------------------------------------ traffic that never ends


@given(
    costs=st.lists(st.integers(4, LIMIT), min_size=2, max_size=4),
    clients=st.lists(st.integers(1, 4), min_size=4, max_size=4),
    lengths=st.lists(st.integers(1, 5), min_size=8, max_size=8),
    load_ticks=st.integers(1, 6),
    swap_after=st.integers(0, 20),
)
@settings(max_examples=60, deadline=None)
def test_clients_that_never_pause_all_have_their_turn_and_no_turn_is_cut_short(
    costs: list[int], clients: list[int], lengths: list[int], load_ticks: int, swap_after: int
) -> None:
    """Each client asks again the moment it is answered. A tick is a second; a request takes 1 to 5."""
    pool = Traffic(costs, clients, lengths, load_ticks, float(swap_after))
    for _ in range(600):
        pool.tick()
    # Each of the others may have a turn first: its load, its bound, its batch in rounds of MAX_IN_FLIGHT,
    # what is in flight at its end, its exit.
    turn = load_ticks + swap_after + 5 * (max(clients) + 2) + 3
    assert pool.longest_wait <= turn * (len(costs) + 1) + swap_after


class Traffic:
    """Closed-loop clients over the policy."""

    def __init__(
        self, costs: list[int], clients: list[int], lengths: list[int], load_ticks: int, swap_after_s: float
    ) -> None:
        self.now = 0.0
        self.lengths = itertools.cycle(lengths)
        self.load_ticks = load_ticks
        self.swap_after_s = swap_after_s
        self.models = {f"m{i}": Model(f"m{i}", cost, False, -1.0) for i, cost in enumerate(costs)}
        self.until: dict[str, float] = {}
        self.running: dict[int, tuple[str, float]] = {}
        self.waiters: dict[int, tuple[str, float]] = {}
        self.numbers = itertools.count(1)
        self.longest_wait = 0.0
        for name, count in zip(self.models, clients, strict=False):
            for _ in range(count):
                self.ask(name)

    def ask(self, name: str) -> None:
        self.waiters[next(self.numbers)] = (name, self.now)

    def tick(self) -> None:
        self.now += 1
        for request, (name, end) in list(self.running.items()):
            if self.now >= end:
                del self.running[request]
                self.models[name].leases -= 1
                self.models[name].last_used = self.now
                self.ask(name)
        for name, end in list(self.until.items()):
            if self.now >= end:
                del self.until[name]
                self.settle(self.models[name])
        for decision in admission.decide(self.view()):
            self.carry_out(decision)
        assert sum(m.cost for m in self.models.values() if m.has_worker) <= LIMIT
        for _, since in self.waiters.values():
            self.longest_wait = max(self.longest_wait, self.now - since)

    def settle(self, model: Model) -> None:
        if model.state is ModelState.STOPPING:
            model.state = ModelState.ABSENT
            return
        model.state, model.ready_at, model.last_used = ModelState.READY, self.now, self.now
        model.owed = {w for w, (wanted, _) in self.waiters.items() if wanted == model.name}
        model.batch_end = max(model.owed, default=0)

    def carry_out(self, decision: admission.Decision) -> None:
        match decision:
            case admission.Grant(waiter):
                name, _ = self.waiters.pop(waiter)
                self.models[name].leases += 1
                self.running[waiter] = (name, self.now + next(self.lengths))
            case admission.StartLoad(name):
                self.models[name].state = ModelState.LOADING
                self.until[name] = self.now + self.load_ticks
            case admission.StopIdle(name):
                model = self.models[name]
                assert model.state is ModelState.READY
                assert not model.leases
                if any(wanted == name for wanted, _ in self.waiters.values()):
                    assert self.now - model.ready_at >= self.swap_after_s, "its turn was cut short"
                    assert not model.owed & self.waiters.keys(), "its batch was not served"
                model.state = ModelState.STOPPING
                self.until[name] = self.now + 1
            case _:
                raise AssertionError(f"nobody is refused here: {decision}")

    def view(self) -> PoolView:
        views = (
            ModelView(
                m.name,
                m.state,
                m.cost,
                m.has_worker,
                in_flight=m.leases,
                queued=sum(1 for name, _ in self.waiters.values() if name == m.name),
                last_used=m.last_used,
                ready_at=m.ready_at,
                batch_end=m.batch_end,
            )
            for m in self.models.values()
        )
        waiters = (WaiterView(i, name, True, since) for i, (name, since) in sorted(self.waiters.items()))
        return PoolView(
            self.now, LIMIT, 0, MAX_IN_FLIGHT, tuple(views), tuple(waiters), swap_after_s=self.swap_after_s
        )
