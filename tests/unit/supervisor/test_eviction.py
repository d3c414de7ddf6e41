"""Which idle models make room, and which have been idle for too long."""

from __future__ import annotations

from mlxk.supervisor.eviction import Evict, Fits, NeverFits, WaitForRoom, expired, make_room
from tests.unit.supervisor.views import GB, absent, loading, pool_of, ready, stopping


def test_what_fits_evicts_nobody() -> None:
    assert make_room(pool_of(ready("a", 5 * GB)), 5 * GB) == Fits()


def test_the_least_recently_used_goes_first_and_only_as_many_as_needed() -> None:
    view = pool_of(
        ready("new", 3 * GB, last_used=9),
        ready("old", 3 * GB, last_used=1),
        ready("mid", 3 * GB, last_used=5),
    )
    assert make_room(view, 2 * GB) == Evict(("old",))
    assert make_room(view, 5 * GB) == Evict(("old", "mid"))


def test_a_busy_model_is_no_victim() -> None:
    view = pool_of(ready("busy", 5 * GB, in_flight=1, last_used=1), ready("idle", 4 * GB, last_used=9))
    assert make_room(view, 4 * GB) == Evict(("idle",))
    assert make_room(view, 8 * GB) == WaitForRoom()


def test_a_model_that_somebody_waits_for_is_no_victim() -> None:
    assert make_room(pool_of(ready("a", queued=1), max_models=1), GB) == WaitForRoom()


def test_a_loading_model_is_no_victim() -> None:
    assert make_room(pool_of(loading("a"), max_models=1), GB) == WaitForRoom()


def test_a_stopping_model_counts_until_it_is_gone() -> None:
    view = pool_of(stopping("a", 8 * GB), ready("b", 2 * GB))
    assert make_room(view, 5 * GB) == WaitForRoom()  # and b stays: what is on its way out is enough
    assert make_room(view, 9 * GB) == Evict(("b",))


def test_nobody_is_evicted_when_it_would_not_be_enough() -> None:
    view = pool_of(ready("idle", 4 * GB), ready("busy", 5 * GB, in_flight=1))
    assert make_room(view, 6 * GB) == WaitForRoom()


def test_what_exceeds_the_limit_never_fits() -> None:
    assert isinstance(make_room(pool_of(), 11 * GB), NeverFits)


def test_what_does_not_fit_beside_the_pinned_never_fits_and_evicts_nobody() -> None:
    view = pool_of(ready("pin", 6 * GB, pinned=True), ready("idle", 2 * GB))
    room = make_room(view, 5 * GB)
    assert isinstance(room, NeverFits)
    assert "pin" in room.reason
    assert "idle" not in room.reason


def test_a_busy_neighbour_does_not_hide_that_it_never_fits_beside_the_pinned() -> None:
    view = pool_of(ready("pin", 6 * GB, pinned=True), ready("busy", 2 * GB, in_flight=1))
    assert isinstance(make_room(view, 5 * GB), NeverFits)


def test_pinned_models_may_hold_all_places() -> None:
    assert isinstance(make_room(pool_of(ready("pin", pinned=True), max_models=1), GB), NeverFits)


def test_a_pinned_model_that_is_being_stopped_makes_room() -> None:
    assert make_room(pool_of(stopping("pin", pinned=True), max_models=1), GB) == WaitForRoom()


def test_no_limit_of_number_means_none() -> None:
    view = pool_of(*(ready(str(number), 1) for number in range(50)), max_models=0)
    assert make_room(view, GB) == Fits()


def test_only_idle_unpinned_models_expire() -> None:
    view = pool_of(
        ready("idle", last_used=90, keep_alive_s=10),
        ready("fresh", last_used=91, keep_alive_s=10),
        ready("busy", last_used=0, keep_alive_s=10, in_flight=1),
        ready("wanted", last_used=0, keep_alive_s=10, queued=1),
        ready("pinned", last_used=0, keep_alive_s=10, pinned=True),
        ready("forever", last_used=0, keep_alive_s=-1),
        loading("loading", last_used=0, keep_alive_s=0),
        absent("absent", last_used=0, keep_alive_s=0),
        now=100.0,
    )
    assert expired(view) == ("idle",)


def test_keep_alive_zero_expires_as_soon_as_the_model_is_idle() -> None:
    assert expired(pool_of(ready("a", last_used=100, keep_alive_s=0), now=100.0)) == ("a",)
