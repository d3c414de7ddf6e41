"""`bench.turns`: loads that run by turns, against a server that replays. No speed is judged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench import turns
from bench.client import Stream
from bench.counter import Counter
from bench.peers import Served
from bench.replay import TOKENS, replay
from bench.words import user
from tests.process.watch import until

FOLDER = Path("/model")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Its process is one that can be frozen; the server itself replays from this one."""
    monkeypatch.setattr(turns, "TURN_S", 0.3)
    monkeypatch.setattr(turns, "WARM_S", 0.2)
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with replay() as url, subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield Served(url, {FOLDER: "replayed"}, process.pid)
        assert process.stdin
        process.stdin.close()


def test_a_load_counts_in_its_turns_only(served: Served, tmp_path: Path) -> None:
    with turns.loaded(served, FOLDER, [{"messages": user("go")}], 2, tmp_path, "replay") as load:
        assert load.turn() > 0
        frozen = psutil.Process(load.roots[1])
        until(lambda: frozen.status() == psutil.STATUS_STOPPED)
        frozen_at = load.counter.arrivals
        assert load.turn() > 0
        assert load.counter.arrivals > frozen_at
        assert load.counter.tokens_per_arrival == pytest.approx(1.0)
        assert load.counter.arrivals > 2 * TOKENS  # requests end, and others begin


def test_arrivals_count_as_tokens_before_a_request_has_ended(tmp_path: Path) -> None:
    """A slow model's first turns may end before any of its requests: they are not without tokens."""
    path, counter = Counter.make(tmp_path, "counter")
    load = Counter(path)
    load.arrived(3)
    assert (counter.arrivals, counter.tokens_per_arrival) == (3, 1.0)
    load.ended(Stream(0.0, [0.1, 0.2], tokens=3))
    assert counter.tokens_per_arrival == 1.5


def test_every_peer_has_its_place_in_every_turn(served: Served) -> None:
    peers = {"a": (served, FOLDER), "b": (served, FOLDER)}
    found = list(turns.take_turns(peers, [{"messages": user("go")}], 1, 2))
    assert [(turn, name) for turn, name, _ in found] == [(0, "a"), (0, "b"), (1, "b"), (1, "a")]
    assert all(values["tokens_per_s"] > 0 for _, _, values in found)


def test_a_load_that_ends_by_itself_is_told(served: Served, tmp_path: Path) -> None:
    nowhere = Served("http://127.0.0.1:9", {FOLDER: "replayed"}, served.pid)
    with (
        pytest.raises(RuntimeError, match="ended by itself"),
        turns.loaded(nowhere, FOLDER, [{"messages": user("go")}], 1, tmp_path, "nobody"),
    ):
        pass
