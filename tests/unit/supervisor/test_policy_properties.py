"""The policies in a simulated pool: any order of events, and in the end everybody has had an answer.

The simulation carries decisions out as the pool does, without processes and without time of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
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

    @property
    def has_worker(self) -> bool:
        return self.state in (ModelState.LOADING, ModelState.READY, ModelState.STOPPING)


@dataclass
class Tally:
    arrived: set[int] = field(default_factory=set)
    granted: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    left: set[int] = field(default_factory=set)


class SimulatedPool(RuleBasedStateMachine):
    @initialize(
        costs=st.lists(st.integers(1, 12), min_size=2, max_size=4),
        pins=st.lists(st.booleans(), min_size=4, max_size=4),
        max_models=st.integers(0, 3),
        keep_alive_s=st.sampled_from([-1.0, 0.0, 5.0]),
    )
    def set_up(self, costs: list[int], pins: list[bool], max_models: int, keep_alive_s: float) -> None:
        self.now = 0.0
        self.max_models = max_models
        self.models = {
            f"m{number}": Model(f"m{number}", cost, pins[number] and number == 0, keep_alive_s)
            for number, cost in enumerate(costs)
        }
        self.waiters: dict[int, tuple[str, bool]] = {}
        self.next_id = 0
        self.tally = Tally()
        self.undecided = False

    # ------------------------------------------------------------------ events

    @rule(pick=st.integers(0, 3), holds_lease=st.sampled_from([True, True, True, False]), alone=st.booleans())
    def arrive(self, pick: int, holds_lease: bool, alone: bool) -> None:
        """Several may arrive, and other things happen, before the pool decides."""
        name = self.names[pick % len(self.names)]
        self.next_id += 1
        self.waiters[self.next_id] = (name, holds_lease)
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

    @rule(pick=st.integers(0, 3))
    def finish(self, pick: int) -> None:
        self.end_lease(self.names[pick % len(self.names)])
        self.turn()

    @rule(pick=st.integers(0, 3))
    def loaded(self, pick: int) -> None:
        self.complete_load(self.names[pick % len(self.names)])
        self.turn()

    @rule(pick=st.integers(0, 3))
    def exited(self, pick: int) -> None:
        self.reap(self.names[pick % len(self.names)])
        self.turn()

    @rule(pick=st.integers(0, 3))
    def died(self, pick: int) -> None:
        model = self.models[self.names[pick % len(self.names)]]
        if model.has_worker:
            if model.state is ModelState.LOADING:
                self.refuse_all(model.name)
            model.failed = True
            self.reap(model.name, died=True)
        self.turn()

    @rule(pick=st.integers(0, 3))
    def stopped_by_somebody(self, pick: int) -> None:
        model = self.models[self.names[pick % len(self.names)]]
        self.refuse_all(model.name)
        if model.has_worker:
            model.state = ModelState.STOPPING
        self.turn()

    @rule(seconds=st.sampled_from([0.5, 3.0, 10.0]))
    def tick(self, seconds: float) -> None:
        self.pass_time(seconds)
        self.turn()

    # ------------------------------------------------------------- what the pool does

    @property
    def names(self) -> list[str]:
        return list(self.models)

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
                    cost_bytes=m.cost,
                    has_worker=m.has_worker,
                    in_flight=m.leases,
                    queued=sum(1 for name, _ in self.waiters.values() if name == m.name),
                    last_used=m.last_used,
                    keep_alive_s=m.keep_alive_s,
                    pinned=m.pinned,
                    fault_text="failed",
                )
                for m in self.models.values()
            ),
            waiters=tuple(
                WaiterView(number, name, holds) for number, (name, holds) in sorted(self.waiters.items())
            ),
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
                assert name not in {wanted for wanted, _ in self.waiters.values()}, "a wanted victim"
                model.state = ModelState.STOPPING
            case admission.Refuse(waiter, _):
                del self.waiters[waiter]
                self.tally.refused.add(waiter)

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

    def reap(self, name: str, *, died: bool = False) -> None:
        model = self.models[name]
        if model.state is not ModelState.STOPPING and not died:
            return
        model.leases, model.state = 0, ModelState.ABSENT
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
            model.state = ModelState.STOPPING

    # -------------------------------------------------------------- what always holds

    @invariant()
    def never_over_the_limits(self) -> None:
        if not hasattr(self, "models"):
            return
        present = [m for m in self.models.values() if m.has_worker]
        assert sum(m.cost for m in present) <= LIMIT
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
