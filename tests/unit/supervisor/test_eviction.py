"""Which idle models make room, and which have been idle for too long."""

from __future__ import annotations

from dataclasses import replace

from mlxk.supervisor.eviction import (
    Fits,
    MakeRoom,
    NeverFits,
    RoomIsComing,
    Trim,
    WaitForRoom,
    balance,
    expired,
    make_room,
)
from tests.unit.supervisor.views import GB, absent, loading, pool_of, ready, stopping


def test_what_fits_evicts_nobody() -> None:
    assert make_room(pool_of(ready("a", 5 * GB)), 5 * GB) == Fits()


def test_the_least_recently_used_goes_first_and_only_as_many_as_needed() -> None:
    view = pool_of(
        ready("new", 3 * GB, last_used=9),
        ready("old", 3 * GB, last_used=1),
        ready("mid", 3 * GB, last_used=5),
    )
    assert make_room(view, 2 * GB) == MakeRoom(evict=("old",))
    assert make_room(view, 5 * GB) == MakeRoom(evict=("old", "mid"))


def test_a_busy_model_is_no_victim() -> None:
    view = pool_of(ready("busy", 5 * GB, in_flight=1, last_used=1), ready("idle", 4 * GB, last_used=9))
    assert make_room(view, 4 * GB) == MakeRoom(evict=("idle",))
    assert make_room(view, 8 * GB) == WaitForRoom()


def test_a_model_that_somebody_waits_for_is_no_victim() -> None:
    assert make_room(pool_of(ready("a", queued=1), max_models=1), GB) == WaitForRoom()


def test_a_loading_model_is_no_victim() -> None:
    assert make_room(pool_of(loading("a"), max_models=1), GB) == WaitForRoom()


def test_a_stopping_model_counts_until_it_is_gone() -> None:
    view = pool_of(stopping("a", 8 * GB), ready("b", 2 * GB))
    assert make_room(view, 5 * GB) == RoomIsComing()  # and b stays: what is on its way out is enough
    assert make_room(view, 9 * GB) == MakeRoom(evict=("b",))


def test_nobody_is_evicted_when_it_would_not_be_enough() -> None:
    view = pool_of(ready("idle", 4 * GB), ready("busy", 5 * GB, in_flight=1))
    assert make_room(view, 6 * GB) == WaitForRoom()


def test_what_exceeds_the_limit_never_fits() -> None:
    assert isinstance(make_room(pool_of(), 11 * GB), NeverFits)


def test_what_does_not_fit_beside_the_pinned_never_fits_and_evicts_nobody() -> None:
    view = pool_of(ready("pin", 6 * GB, pinned=True), ready("other", 2 * GB))
    room = make_room(view, 5 * GB)
    assert isinstance(room, NeverFits)
    assert "pin 6.4 GB (pinned, idle)" in room.reason
    assert "other" not in room.reason


def test_a_busy_neighbour_does_not_hide_that_it_never_fits_beside_the_pinned() -> None:
    view = pool_of(ready("pin", 6 * GB, pinned=True), ready("busy", 2 * GB, in_flight=1))
    assert isinstance(make_room(view, 5 * GB), NeverFits)


def test_pinned_models_may_hold_all_places() -> None:
    assert isinstance(make_room(pool_of(ready("pin", pinned=True), max_models=1), GB), NeverFits)


def test_a_pinned_model_that_is_being_stopped_makes_room() -> None:
    assert make_room(pool_of(stopping("pin", pinned=True), max_models=1), GB) == RoomIsComing()


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


# ---------------------------------------------------------------------------- trims


def test_a_trim_comes_before_an_eviction_and_takes_no_more_than_is_missing() -> None:
    view = pool_of(ready("a", 6 * GB, trimmable_bytes=3 * GB))
    assert make_room(view, 5 * GB) == MakeRoom(trim=(Trim("a", GB),))


def test_the_least_recently_used_cache_is_trimmed_first() -> None:
    view = pool_of(
        ready("new", 5 * GB, trimmable_bytes=2 * GB, last_used=9),
        ready("old", 5 * GB, trimmable_bytes=2 * GB, last_used=1),
    )
    assert make_room(view, GB) == MakeRoom(trim=(Trim("old", GB),))
    assert make_room(view, 3 * GB) == MakeRoom(trim=(Trim("old", 2 * GB), Trim("new", GB)))


def test_a_busy_models_cache_is_not_trimmed() -> None:
    view = pool_of(ready("a", 8 * GB, trimmable_bytes=4 * GB, in_flight=1))
    assert make_room(view, 4 * GB) == WaitForRoom()


def test_nothing_is_trimmed_when_an_eviction_alone_is_enough_and_needed() -> None:
    view = pool_of(
        ready("old", 6 * GB, trimmable_bytes=GB, last_used=1),
        ready("new", 4 * GB, trimmable_bytes=GB, last_used=9),
    )
    assert make_room(view, 5 * GB) == MakeRoom(evict=("old",))


def test_a_trim_of_those_that_stay_can_spare_an_eviction() -> None:
    view = pool_of(
        ready("old", 4 * GB, last_used=1),
        ready("new", 6 * GB, trimmable_bytes=2 * GB, last_used=9),
    )
    assert make_room(view, 6 * GB) == MakeRoom(trim=(Trim("new", 2 * GB),), evict=("old",))


def test_a_pinned_idle_models_cache_may_be_trimmed() -> None:
    view = pool_of(ready("pin", 8 * GB, pinned=True, trimmable_bytes=3 * GB))
    assert make_room(view, 4 * GB) == MakeRoom(trim=(Trim("pin", 2 * GB),))
    assert isinstance(make_room(view, 6 * GB), NeverFits)


def test_a_trim_under_way_is_room_that_comes_and_is_not_free_before() -> None:
    view = pool_of(ready("a", 8 * GB, trimming_bytes=2 * GB))
    assert make_room(view, 4 * GB) == RoomIsComing()


def test_a_place_among_max_models_needs_an_eviction_whatever_could_be_trimmed() -> None:
    view = pool_of(ready("a", trimmable_bytes=GB // 2), max_models=1)
    assert make_room(view, GB) == MakeRoom(evict=("a",))


def test_a_trimmed_cache_grows_back_into_free_room() -> None:
    view = pool_of(ready("a", 6 * GB, trimmed_bytes=2 * GB), ready("b", 3 * GB))
    assert balance(view) == (Trim("a", -GB),)


def test_no_cache_grows_while_somebody_waits_for_room() -> None:
    view = pool_of(ready("a", 2 * GB, trimmed_bytes=GB), absent("b", 9 * GB), waiting="b")
    assert balance(view) == ()


def test_idle_caches_give_way_where_models_hold_more_than_was_expected() -> None:
    view = pool_of(
        ready("busy", 8 * GB, in_flight=1, trimmable_bytes=GB), ready("idle", 4 * GB, trimmable_bytes=3 * GB)
    )
    assert balance(view) == (Trim("idle", 2 * GB),)


# --------------------------------------------------------------------- the end of a turn


def test_a_closable_model_is_closed_while_it_works_and_evicted_when_it_is_done() -> None:
    busy = ready("a", 8 * GB, in_flight=1, queued=3)
    assert make_room(pool_of(busy), 5 * GB, [busy]) == WaitForRoom(closed=("a",))
    done = ready("a", 8 * GB, queued=3)
    assert make_room(pool_of(done), 5 * GB, [done]) == MakeRoom(evict=("a",))


def test_a_model_that_has_just_answered_keeps_its_young_turn_for_a_moment() -> None:
    just_idle = ready("a", 8 * GB, last_used=99.95, ready_at=90)
    view = pool_of(just_idle, swap_after_s=30)
    assert make_room(view, 5 * GB) == RoomIsComing()
    assert make_room(replace(view, now=100.2), 5 * GB) == MakeRoom(evict=("a",))
    assert make_room(replace(view, swap_after_s=5), 5 * GB) == MakeRoom(evict=("a",))  # it had its turn


def test_idle_models_go_before_one_that_works_and_the_longest_turn_ends_first() -> None:
    long = ready("long", 4 * GB, in_flight=1, ready_at=1)
    short = ready("short", 4 * GB, in_flight=1, ready_at=50)
    view = pool_of(short, long, ready("idle", 2 * GB))
    assert make_room(view, 2 * GB, [short, long]) == MakeRoom(evict=("idle",))
    assert make_room(view, 5 * GB, [short, long]) == WaitForRoom(closed=("idle", "long"))


def test_nobody_is_closed_when_it_would_not_be_enough() -> None:
    pin, busy = ready("pin", 5 * GB, in_flight=1), ready("busy", 2 * GB, in_flight=1)
    assert make_room(pool_of(pin, busy), 6 * GB, [busy]) == WaitForRoom()
