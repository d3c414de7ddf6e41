"""Who may go on, who waits, who is refused."""

from __future__ import annotations

from dataclasses import replace

from mlxk.supervisor.admission import MAX_BRIEF, Grant, Refuse, StartLoad, StopIdle, decide
from mlxk.supervisor.eviction import Trim
from mlxk.supervisor.states import ModelState
from mlxk.supervisor.views import WaiterView
from mlxk.workers.protocol import FaultCode
from tests.unit.supervisor.views import GB, absent, loading, pool_of, ready, stopping


def test_ready_waiters_are_granted_up_to_the_limit() -> None:
    view = pool_of(ready("a", in_flight=1), waiting="a a a", max_in_flight=3)
    assert decide(view) == [Grant(1), Grant(2)]


def test_a_full_model_does_not_hold_up_another_models_waiter() -> None:
    view = pool_of(ready("a", in_flight=2), ready("b"), waiting="a b")
    assert decide(view) == [Grant(2)]


def test_an_explicit_load_of_a_full_model_is_granted_at_once() -> None:
    view = pool_of(ready("a", in_flight=2), waiters=(WaiterView(1, "a", holds_lease=False),))
    assert decide(view) == [Grant(1)]


def test_an_explicit_load_takes_no_lease_from_a_request() -> None:
    waiters = (WaiterView(1, "a", holds_lease=False), WaiterView(2, "a"))
    assert decide(pool_of(ready("a", in_flight=1), waiters=waiters)) == [Grant(1), Grant(2)]


def test_brief_work_goes_on_beside_a_full_batch_and_takes_no_place_in_it() -> None:
    waiters = (WaiterView(1, "a", is_brief=True), WaiterView(2, "a"), WaiterView(3, "a", is_brief=True))
    assert decide(pool_of(ready("a", in_flight=2), waiters=waiters)) == [Grant(1), Grant(3)]
    one_place = ready("a", in_flight=4, n_brief=3)
    assert decide(pool_of(one_place, waiters=waiters)) == [Grant(1), Grant(2), Grant(3)]


def test_brief_work_is_bounded_and_queues_like_all_else() -> None:
    waiters = tuple(WaiterView(number, "a", is_brief=True) for number in range(1, 5))
    nearly_full = ready("a", in_flight=MAX_BRIEF - 1, n_brief=MAX_BRIEF - 1)
    decisions = decide(pool_of(nearly_full, waiters=waiters, queue_per_model=2))
    assert decisions[0] == Grant(1)
    (refusal,) = decisions[1:]
    assert isinstance(refusal, Refuse)
    assert (refusal.waiter, refusal.fault.code) == (4, FaultCode.QUEUE_FULL)
    assert decide(pool_of(absent("a"), waiters=waiters[:1])) == [StartLoad("a")]


def test_many_waiters_of_a_cold_model_start_one_load() -> None:
    assert decide(pool_of(absent("a"), waiting="a a a a")) == [StartLoad("a")]


def test_two_cold_models_that_fit_are_loaded_at_once() -> None:
    assert decide(pool_of(absent("a"), absent("b"), waiting="a b")) == [StartLoad("a"), StartLoad("b")]


def test_two_cold_models_never_share_room_for_one() -> None:
    view = pool_of(absent("a", 6 * GB), absent("b", 6 * GB), waiting="a b", limit=10 * GB)
    assert decide(view) == [StartLoad("a")]


def test_waiters_of_a_loading_stopping_or_backed_off_model_wait() -> None:
    backoff = replace(absent("c"), state=ModelState.BACKOFF)
    assert decide(pool_of(loading("a"), stopping("b"), backoff, waiting="a b c")) == []


def test_a_failed_model_refuses_with_its_reason() -> None:
    failed = replace(absent("a"), state=ModelState.FAILED, fault_text="it failed 5 times")
    (decision,) = decide(pool_of(failed, waiting="a"))
    assert isinstance(decision, Refuse)
    assert decision.fault.code is FaultCode.MODEL_FAILED
    assert decision.fault.message == "it failed 5 times"


def test_an_idle_model_is_evicted_and_its_room_is_not_given_away_before_it_is_gone() -> None:
    view = pool_of(ready("a"), absent("b"), waiting="b", max_models=1)
    assert decide(view) == [StopIdle("a")]
    assert decide(pool_of(stopping("a"), absent("b"), waiting="b", max_models=1)) == []
    assert decide(pool_of(absent("a"), absent("b"), waiting="b", max_models=1)) == [StartLoad("b")]


def test_a_later_load_never_takes_the_room_that_an_earlier_waiter_waits_for() -> None:
    busy = ready("a", 5 * GB, in_flight=1)
    view = pool_of(busy, absent("big", 8 * GB), absent("small"), waiting="big small")
    assert decide(view) == []


def test_a_request_for_a_loaded_model_passes_those_who_wait_for_room() -> None:
    busy = ready("a", 5 * GB, in_flight=1)
    assert decide(pool_of(busy, absent("big", 8 * GB), waiting="big a")) == [Grant(2)]


def test_a_model_that_was_just_granted_to_a_request_is_no_victim() -> None:
    view = pool_of(ready("a", queued=1), absent("b"), waiting="a b", max_models=1)
    assert decide(view) == [Grant(1)]


def test_an_oversize_model_is_refused_and_evicts_nobody() -> None:
    (decision,) = decide(pool_of(ready("a"), absent("b", 11 * GB), waiting="b"))
    assert isinstance(decision, Refuse)
    assert decision.fault.code is FaultCode.INSUFFICIENT_MEMORY
    assert "11" in decision.fault.message
    assert "--max-memory" in decision.fault.message


def test_an_oversize_model_does_not_hold_up_the_next_load() -> None:
    decisions = decide(pool_of(absent("a", 11 * GB), absent("b"), waiting="a b"))
    assert isinstance(decisions[0], Refuse)
    assert decisions[1:] == [StartLoad("b")]


def test_who_comes_when_the_models_queue_is_full_is_refused_and_the_earlier_stay() -> None:
    view = pool_of(loading("a"), loading("b"), waiting="a a a b", queue_per_model=2)
    (decision,) = decide(view)
    assert isinstance(decision, Refuse)
    assert decision.waiter == 3
    assert decision.fault.code is FaultCode.QUEUE_FULL
    assert decision.fault.retry_after_s


def test_the_whole_queue_is_bounded_too() -> None:
    (decision,) = decide(pool_of(loading("a"), loading("b"), waiting="a b a", queue_total=2))
    assert isinstance(decision, Refuse)
    assert decision.waiter == 3


def test_who_can_go_on_at_once_needs_no_place_in_the_queue() -> None:
    view = pool_of(ready("a"), waiting="a a a", max_in_flight=2, queue_per_model=0)
    first, second, third = decide(view)
    assert [first, second] == [Grant(1), Grant(2)]
    assert isinstance(third, Refuse)


def test_nothing_is_loaded_for_a_waiter_that_is_refused() -> None:
    (decision,) = decide(pool_of(absent("a"), waiting="a", queue_per_model=0))
    assert isinstance(decision, Refuse)


# --------------------------------------------------------------------------- room


def refusals(decisions: list[object]) -> list[Refuse]:
    return [decision for decision in decisions if isinstance(decision, Refuse)]


def test_an_idle_cache_is_trimmed_before_a_model_is_evicted() -> None:
    view = pool_of(ready("a", 8 * GB, trimmable_bytes=4 * GB), absent("b", 4 * GB), waiting="b")
    assert decide(view) == [Trim("a", 2 * GB)]


def test_trimmed_memory_is_not_given_away_before_it_is_back() -> None:
    view = pool_of(ready("a", 8 * GB, trimming_bytes=2 * GB), absent("b", 4 * GB), absent("c"), waiting="b c")
    assert decide(view) == []


def later(*models: str, ago: float = 50, first: int = 1) -> tuple[WaiterView, ...]:
    """Waiters, the first of whom came `ago` seconds before `now` (100), the others a second apart."""
    return tuple(WaiterView(first + i, name, since=100 - ago + i) for i, name in enumerate(models))


def test_steady_traffic_keeps_its_turn_until_the_bound() -> None:
    busy = ready("a", 8 * GB, in_flight=1, queued=1, ready_at=1)
    view = pool_of(busy, absent("b", 5 * GB), waiters=later("b", "a"), swap_after_s=60)
    assert decide(view) == [Grant(2)]


def test_after_the_bound_the_model_takes_no_new_leases_and_is_swapped_out_when_it_is_done() -> None:
    busy = ready("a", 8 * GB, in_flight=1, queued=1, ready_at=1)
    view = pool_of(busy, absent("b", 5 * GB), waiters=later("b", "a"), swap_after_s=30)
    assert decide(view) == []
    done = replace(busy, in_flight=0)
    assert decide(replace(view, models=(done, absent("b", 5 * GB)))) == [StopIdle("a")]


def test_who_came_before_the_one_that_waits_for_room_is_served_before() -> None:
    busy = ready("a", 8 * GB, in_flight=1, queued=2, ready_at=1)
    view = pool_of(busy, absent("b", 5 * GB), waiters=later("a", "b", "a"), swap_after_s=30)
    assert decide(view) == [Grant(1)]


def test_a_turn_serves_all_who_had_queued_when_it_began() -> None:
    busy = ready("a", 8 * GB, in_flight=1, queued=2, ready_at=1, batch_end=2)
    view = pool_of(busy, absent("b", 5 * GB), waiters=later("b", "a", "a"), swap_after_s=30)
    assert decide(view) == [Grant(2)]  # it still owed one, so it was not closed
    view = replace(view, waiters=later("b") + later("a", first=3))
    assert decide(view) == []


def test_a_turn_lasts_for_as_long_as_a_waiter_must_wait() -> None:
    young = ready("a", 8 * GB, in_flight=1, queued=1, ready_at=80)
    view = pool_of(young, absent("b", 5 * GB), waiters=later("b", "a"), swap_after_s=30)
    assert decide(view) == [Grant(2)]
    assert decide(replace(view, now=111.0)) == []


def test_a_pinned_model_never_loses_its_turn() -> None:
    busy = ready("a", 4 * GB, in_flight=1, queued=1, ready_at=1, pinned=True)
    other = ready("c", 4 * GB, in_flight=1)
    view = pool_of(busy, other, absent("b", 5 * GB), waiters=later("b", "a"), swap_after_s=0)
    assert Grant(2) in decide(view)


def test_a_negative_bound_never_ends_a_turn() -> None:
    busy = ready("a", 8 * GB, in_flight=1, queued=1, ready_at=1)
    view = pool_of(busy, absent("b", 5 * GB), waiters=later("b", "a", ago=90), swap_after_s=-1)
    assert decide(view) == [Grant(2)]


# ---------------------------------------------------------------------------- max_wait


def test_who_found_no_room_in_time_is_told_who_holds_it() -> None:
    view = pool_of(ready("a", 8 * GB, in_flight=1), absent("b", 5 * GB), waiters=later("b"), max_wait_s=50)
    (refusal,) = refusals([*decide(view)])
    assert refusal.fault.code is FaultCode.INSUFFICIENT_MEMORY
    assert "a 8.6 GB (busy with 1)" in refusal.fault.message
    assert "mlxk stop" in refusal.fault.message
    assert refusal.fault.retry_after_s


def test_who_found_no_place_in_a_full_model_in_time_is_refused() -> None:
    view = pool_of(ready("a", in_flight=2), waiters=later("a"), max_wait_s=50)
    (refusal,) = refusals([*decide(view)])
    assert refusal.fault.code is FaultCode.DEADLINE_EXCEEDED
    assert refusal.fault.retryable


def test_the_models_own_load_does_not_count_as_waiting() -> None:
    full = ready("a", in_flight=2, last_load=60)
    assert decide(pool_of(full, waiters=later("a"), max_wait_s=50)) == []
    assert decide(pool_of(loading("a"), waiters=later("a"), max_wait_s=0)) == []


def test_who_waits_for_a_process_that_does_not_end_is_refused_in_time() -> None:
    """A drain that takes its time, or a process that not even SIGKILL ends (a dead disk)."""
    gone = replace(stopping("a"), in_flight=1)
    (refusal,) = decide(pool_of(gone, waiters=later("a"), max_wait_s=50))
    assert isinstance(refusal, Refuse)
    assert refusal.fault.code is FaultCode.DEADLINE_EXCEEDED
    assert "being stopped" in refusal.fault.message
    assert decide(pool_of(gone, waiters=later("a", ago=10), max_wait_s=50)) == []


def test_no_waiting_at_all_still_loads_what_fits_and_swaps_what_is_idle() -> None:
    assert decide(pool_of(ready("a"), waiting="a", max_wait_s=0)) == [Grant(1)]
    assert decide(pool_of(absent("a"), waiting="a", max_wait_s=0)) == [StartLoad("a")]
    idle, wanted = ready("a"), absent("b")
    assert decide(pool_of(idle, wanted, waiting="b", max_models=1, max_wait_s=0)) == [StopIdle("a")]
    gone = stopping("a")
    assert decide(pool_of(gone, wanted, waiting="b", max_models=1, max_wait_s=0)) == []
    busy = ready("a", in_flight=1)
    assert len(refusals([*decide(pool_of(busy, wanted, waiting="b", max_models=1, max_wait_s=0))])) == 1


def test_who_is_refused_claims_no_room() -> None:
    view = pool_of(
        ready("a", 5 * GB, in_flight=1),
        absent("big", 8 * GB),
        absent("small"),
        waiters=later("big") + later("small", ago=1, first=2),
        max_wait_s=50,
    )
    first, second = decide(view)
    assert isinstance(first, Refuse)
    assert second == StartLoad("small")


def test_room_that_is_coming_is_waited_for_no_longer_than_any_other() -> None:
    """A restart's old process may drain for an hour."""
    facts = {"waiters": (WaiterView(1, "new", since=100.0),), "limit": GB, "max_wait_s": 60.0}
    models = (stopping("old", in_flight=1), absent("new"))
    assert decide(pool_of(*models, now=159.0, **facts)) == []
    (refusal,) = decide(pool_of(*models, now=161.0, **facts))
    assert isinstance(refusal, Refuse)
    assert refusal.fault.code is FaultCode.INSUFFICIENT_MEMORY
