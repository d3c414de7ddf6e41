"""The arithmetic of `script/bench`, and its load client against a server that replays. No speed is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.client import Flow, Stream, call, flow
from bench.figures import Figures, Row, Spread, percentile
from bench.main import find_scenes
from bench.peers import BY_NAME, LimitPeer, Mlxk, MlxKnife
from bench.replay import TOKENS, replay
from bench.report import Report
from bench.scene import Context, Sample, Target
from bench.scene_throughput import FULL, QUICK, Throughput, values_of


def _samples(peer: str, speeds: list[float]) -> list[Sample]:
    return [
        Sample("a-throughput", "in turns, 8 streams", "tiny", peer, number, {"tokens_per_s": speed})
        for number, speed in enumerate(speeds)
    ]


OURS = Row("a-throughput", "tiny", "in turns, 8 streams", "mlxk")
# The machine slows down to a half in the second round: the medians' ratio would be 0.95, the ratios' is 0.9.
SAMPLES = _samples("mlxk", [190.0, 90.0, 225.0]) + _samples("limit", [200.0, 100.0, 250.0])


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    figures = Figures(SAMPLES)
    assert figures.ratio(OURS, "tokens_per_s", "limit") == pytest.approx(0.9)
    assert figures.difference(OURS, "tokens_per_s", "limit") == pytest.approx(-10.0)
    assert figures.spread(OURS, "tokens_per_s") == Spread(190.0, 90.0, 225.0, 3)
    assert figures.ratio(OURS, "tokens_per_s", "mlx_lm.server") is None


def test_a_round_that_a_peer_missed_is_left_out_of_its_ratio() -> None:
    figures = Figures(_samples("mlxk", [190.0, 90.0]) + _samples("limit", [0.0, 100.0, 250.0])[1:])
    assert figures.ratio(OURS, "tokens_per_s", "limit") == pytest.approx(0.9)


def test_a_target_is_reached_missed_or_not_measured() -> None:
    figures, case = Figures(SAMPLES), OURS.case
    judged = [
        figures.judge("a-throughput", target)
        for target in (
            Target(case, "tiny", "tokens_per_s", "limit", at_least=0.9 - 1e-9),
            Target(case, "tiny", "tokens_per_s", "limit", at_least=0.95),
            Target(case, "tiny", "tokens_per_s", "limit", at_most=-5.0, difference=True),
            Target(case, "tiny", "tokens_per_s", at_most=100.0),
            Target(case, "5m", "tokens_per_s", "limit", at_least=0.95),
        )
    ]
    assert [found.reached for found in judged] == [True, False, True, False, False]
    assert judged[-1].measured is None


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([], 0.5) == 0.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(n) for n in range(100)], 0.95) == 95.0


def test_what_streams_felt_like_in_numbers() -> None:
    one = Stream(1.0, [1.1, 1.2, 1.4], 4, True, {"prompt_tokens": 10})
    two = Stream(1.0, [1.3], 2, True, {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 5}})
    found = values_of(Flow([one, two], 2.0, 0.5))
    assert found["tokens_per_s"] == 3.0
    assert found["ttft_ms_p50"] == pytest.approx(300.0)
    assert found["inter_token_ms_p95"] == pytest.approx(200.0)
    assert found["cached_share"] == 0.25
    with pytest.raises(RuntimeError, match="1 requests failed: HTTP 500"):
        values_of(Flow([one, Stream(1.0, error="HTTP 500")], 2.0, 0.5))


def test_the_report_names_peers_ratios_targets_and_trouble(tmp_path: Path) -> None:
    report = Report([Throughput()], [LimitPeer(), Mlxk(), MlxKnife()], 3, False, list(SAMPLES), ["it broke"])
    report.peers[2].cannot["a-throughput"] = "no reason"
    text = report.write(tmp_path).read_text(encoding="utf-8")
    assert "| tiny | in turns, 8 streams | mlxk | 190 (90 to 225) |" in text
    assert "| tiny | in turns, 8 streams | tokens_per_s | mlxk ÷ limit | ≥ 0.95 | 0.9 | **missed** |" in text
    assert "mlx-knife==2.0.8" in text
    assert "mlx-knife takes no part: no reason." in text
    assert "- it broke" in text
    whole = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert len(whole["samples"]) == len(SAMPLES)
    assert list(tmp_path.glob("*.png"))


def test_a_scene_is_drawn_by_its_own_headline(tmp_path: Path) -> None:
    """Also one whose cases are numbers of streams and that measures no time to a first token."""
    samples = [
        Sample("e-front", f"1 models, {n} streams", "fake", "mlxk", 0, {"cpu_us_per_token": 400.0 / n})
        for n in (1, 8, 32)
    ]
    (scene,) = find_scenes(["e"])
    text = Report([scene], [Mlxk()], 1, True, samples).write(tmp_path).read_text(encoding="utf-8")
    pictures = [picture.name for picture in tmp_path.glob("*.png")]
    assert pictures == [f"e-front-{scene.headline}.png"]
    assert pictures[0] in text
    assert "exact repeat" not in text, "targets of what was not measured are left out"


def test_the_load_client_counts_what_the_server_sent() -> None:
    with replay() as url:
        found = call(flow, url, bodies=[{"messages": []}] * 5, streams=2)
    assert [stream.error for stream in found.streams] == [""] * 5
    assert [(stream.tokens, len(stream.arrivals)) for stream in found.streams] == [(TOKENS, TOKENS)] * 5
    assert found.streams[0].text == " word" * TOKENS
    assert 0 < found.cpu_share < 1.5


def test_all_scenes_are_found_by_their_letters() -> None:
    assert {scene.name[0] for scene in find_scenes([])} == set("abcdef")
    assert [scene.name for scene in find_scenes(["a"])] == ["a-throughput"]
    with pytest.raises(SystemExit, match="no scene z"):
        find_scenes(["z"])


def test_each_round_begins_with_another_peer() -> None:
    peers = [BY_NAME[name]() for name in ("limit", "mlxk", "mlx-knife")]
    peers[2].cannot["x"] = "it cannot"
    first = [[peer.name for peer in Context(peers, {}, 3, False, n).able("x")] for n in range(3)]
    assert first == [["limit", "mlxk"], ["mlxk", "limit"], ["limit", "mlxk"]]


@pytest.mark.parametrize("cases", [FULL, QUICK])
def test_replies_of_a_case_differ_in_length_and_prompts_never_repeat(cases: dict) -> None:  # type: ignore[type-arg]
    for case in (case for of_model in cases.values() for case in of_model if case.prompt_tokens < 100):
        bodies = case.bodies()
        assert len({body["messages"][0]["content"] for body in bodies}) == case.requests
        assert {body["max_tokens"] for body in bodies} != {case.max_tokens}


def test_samples_of_one_turn_are_compared_with_each_other() -> None:
    """The machine doubles its speed between the turns: the ratio of the two stays."""
    samples = [
        Sample("a-throughput", "in turns, 8 streams", "tiny", peer, 0, {"tokens_per_s": speed * rate}, turn)
        for turn, speed in enumerate((100.0, 200.0, 50.0))
        for peer, rate in (("mlxk", 0.9), ("limit", 1.0))
    ]
    row = Row("a-throughput", "tiny", "in turns, 8 streams", "mlxk")
    figures = Figures(samples)
    assert figures.ratio(row, "tokens_per_s", "limit") == pytest.approx(0.9)
    spread = figures.spread(row, "tokens_per_s")
    assert spread is not None
    assert (spread.minimum, spread.maximum, spread.rounds) == (45.0, 180.0, 3)
