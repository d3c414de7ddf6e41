"""What a dry run says: the same decision as a load's, and where its numbers come from."""

from __future__ import annotations

from mlxk.supervisor.admission import StartLoad, StopIdle, decide
from mlxk.supervisor.costs import Estimate
from mlxk.supervisor.load_plan import LoadPlan, Verdict, plan_load
from mlxk.supervisor.views import ModelView
from tests.unit.supervisor.views import GB, absent, loading, pool_of, ready, stopping

NEED = Estimate(5 * GB, GB, measured=True, load_s=4.0, load_measured=False)


def plan(*models: ModelView, **facts: object) -> LoadPlan:
    present = next((m for m in models if m.name == "x" and m.has_worker), None)
    return plan_load(pool_of(*models, **facts), "x", NEED, present)  # type: ignore[arg-type]


def test_what_is_there_needs_nothing() -> None:
    assert plan(ready("x")).verdict is Verdict.LOADED
    assert plan(loading("x")).verdict is Verdict.LOADING


def test_a_dry_run_agrees_with_what_a_load_would_do() -> None:
    idle = ready("a", 8 * GB, last_used=1)
    for others, expected in (((), StartLoad("x")), ((idle,), StopIdle("a"))):
        assert decide(pool_of(*others, absent("x", NEED.cost_bytes), waiting="x")) == [expected]
    assert plan().verdict is Verdict.FITS
    assert plan(idle).evict == (("a", 8 * GB),)


def test_it_says_whose_cache_would_be_trimmed() -> None:
    made = plan(ready("a", 6 * GB, trimmable_bytes=2 * GB))
    assert (made.verdict, made.trim, made.evict) == (Verdict.MAKES_ROOM, (("a", GB),), ())


def test_it_says_who_would_be_waited_for() -> None:
    waiting = plan(ready("busy", 8 * GB, in_flight=1), ready("pin", GB, pinned=True))
    assert (waiting.verdict, waiting.wait_for) == (Verdict.WAITS, (("busy", 8 * GB),))
    leaving = plan(stopping("old", 8 * GB))
    assert (leaving.verdict, leaving.wait_for) == (Verdict.WAITS, (("old", 8 * GB),))


def test_it_says_what_there_is_too_little_of() -> None:
    small = ready("a", GB, last_used=1)
    assert plan().limited_by is None
    assert plan(ready("a", 8 * GB, last_used=1)).limited_by == "memory"
    one_place = plan(small, max_models=1)
    assert (one_place.verdict, one_place.limited_by, one_place.max_models) == (
        Verdict.MAKES_ROOM,
        "max_models",
        1,
    )
    assert plan(ready("a", GB, in_flight=1), max_models=1).limited_by == "max_models"


def test_what_never_fits_says_why() -> None:
    hopeless = plan(ready("pin", 7 * GB, pinned=True))
    assert hopeless.verdict is Verdict.NEVER_FITS
    assert "pin 7.5 GB" in (hopeless.reason or "")


def test_the_data_says_where_the_numbers_come_from() -> None:
    data = plan().as_data()
    assert (data["need_bytes"], data["need_source"]) == (5 * GB, "measured")
    assert (data["load_s"], data["load_s_source"]) == (4.0, "estimated")
    assert (data["fits"], data["free_bytes"]) == (True, 10 * GB)
