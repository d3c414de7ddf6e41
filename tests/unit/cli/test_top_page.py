"""What `mlxk top` shows, for every size."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from rich.cells import cell_len

from mlxk.cli.errors import not_running
from mlxk.cli.pool_watch import Look
from mlxk.cli.top_page import Choice, bar, page

MODEL: dict[str, Any] = {
    "name": "mlx-community/Qwen3-0.6B-4bit",
    "state": "ready",
    "pid": 4711,
    "memory_bytes": 5_200_000_000,
    "cache": {"entries": 2, "bytes": 3_400_000, "hits": 7, "misses": 1, "reused_tokens": 10},
    "in_flight": 2,
    "queued": 3,
    "tokens_per_s": 812.4,
    "until": None,
    "uptime_s": 70.0,
    "restarts": 1,
    "last_error": None,
    "load_progress": None,
}
LOADING = {**MODEL, "name": "模型/很长的名字-with-more-letters", "state": "loading", "load_progress": 0.45}
FAILED = {**MODEL, "name": "a", "state": "failed", "memory_bytes": 0, "last_error": "it died\x1b[2J\nhere"}
SERVER = {
    "pid": 1,
    "url": "http://127.0.0.1:8000",
    "version": "0.1.0",
    "uptime_s": 7300,
    "memory_limit_bytes": 24_000_000_000,
}


def look(*models: dict[str, Any], n_events: int = 30, **facts: Any) -> Look:
    event = {"time": 0.0, "kind": "state", "model": "a", "state": "ready"}
    progress = {"time": 0.0, "kind": "load_progress", "model": "a", "done_bytes": 1, "total_bytes": 2}
    events = [{**event, "n": n} for n in range(n_events)] + [progress]
    return Look(
        **{"at": time.time(), "data": {"server": SERVER, "models": list(models)}, "events": events, **facts}
    )


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.delenv("NO_COLOR", raising=False)


def shown(of: Look, columns: int = 80, lines: int = 24, choice: Choice | None = None) -> list[str]:
    drawn = page(of, 1.0, columns, lines, choice or Choice())
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in drawn]


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("columns", [1, 10, 20, 40, 79, 80, 81, 100, 120, 160, 200, 400])
def test_it_fits_into_every_size(columns: int, wide: bool) -> None:
    looks = (look(), look(MODEL, LOADING, FAILED), look(data=None, error=not_running("it ended")))
    for of in looks:
        for lines in (1, 2, 5, 10, 24, 60):
            drawn = shown(of, columns, lines, Choice(wide=wide))
            assert len(drawn) <= lines
            assert max(cell_len(line) for line in drawn) <= columns
            assert all(line.isprintable() for line in drawn)


def test_the_sums_stand_above() -> None:
    first, second = shown(look(MODEL, LOADING, FAILED))[:2]
    assert first.startswith("mlxk 0.1.0  http://127.0.0.1:8000  pid 1  up 2h ")
    assert first.endswith("Z")
    assert "memory 10.4 GB of 24.0 GB ████░░░░░░" in second
    assert "models 3  requests 6  queued 9" in second


def test_a_row_says_what_a_model_does() -> None:
    text = "\n".join(shown(look(MODEL, LOADING, FAILED), columns=120))
    assert re.search(r"Qwen3-0.6B-4bit +ready +█░░░░ 5.2 GB +3.4 MB +88% +2\+3 +812 +-", text)
    assert "loading 45%" in text
    assert re.search(r"^a +failed +░░░░░ 0 B", text, re.MULTILINE)


def test_more_models_than_lines_are_counted() -> None:
    many = [{**MODEL, "name": f"m{n:02}"} for n in range(40)]
    drawn = shown(look(*many), lines=24)
    rows = [line for line in drawn if line.startswith("m") and line[1:3].isdigit()]
    assert f"and {40 - len(rows)} more" in drawn
    assert "EVENTS" in drawn


def test_the_newest_events_stand_at_the_end_and_no_progress_is_among_them() -> None:
    drawn = shown(look(MODEL, n_events=3))
    at = drawn.index("EVENTS")
    assert drawn[at + 1 : at + 4] == ["00:00:00Z  a  is ready"] * 3
    assert not any("%" in line for line in drawn[at:])


def test_the_order_can_be_chosen() -> None:
    big, fast = {**MODEL, "name": "big", "memory_bytes": 9e9}, {**MODEL, "name": "fast", "tokens_per_s": 9e3}
    first = {}
    choice = Choice()
    for _ in range(4):
        drawn = shown(look(FAILED, big, fast), choice=choice)
        first[choice.order] = drawn[
            next(n for n, line in enumerate(drawn) if line.startswith("NAME")) + 1
        ].split()[0]
        choice = choice.with_next_order()
    assert first == {"name": "a", "memory": "big", "speed": "fast"}


def test_wide_shows_the_last_error_where_there_is_room() -> None:
    text = "\n".join(shown(look(FAILED), columns=200, choice=Choice().with_other_width()))
    assert re.search(r"PID +UPTIME +RESTARTS +LAST ERROR", text)
    assert "it died?[2J here" in text


def test_a_server_that_is_away_or_silent_is_told() -> None:
    assert "it ended" in "\n".join(shown(look(data=None, error=not_running("it ended"))))
    assert "has not answered for" in "\n".join(shown(look(MODEL, at=time.time() - 60)))
    assert "has not answered" not in "\n".join(shown(look(MODEL)))


def test_a_bar_has_its_length_whatever_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [bar(used, 10, 5).plain for used in (0, 1, 5, 10, 99)] == [
        "░░░░░",
        "█░░░░",
        "██░░░",
        "█████",
        "█████",
    ]
    assert bar(5, 0, 5).plain == "█░░░░"
    monkeypatch.setenv("LC_ALL", "C")
    assert bar(5, 10, 4).plain == "##--"


def test_no_color_has_no_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[32m" in "".join(page(look(MODEL), 1.0, 80, 24, Choice()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3\d", "".join(page(look(MODEL), 1.0, 80, 24, Choice())))
