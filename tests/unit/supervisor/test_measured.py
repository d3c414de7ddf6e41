"""What models were seen to take: kept across runs, and never in the way."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mlxk.supervisor.costs import OVERHEAD_BYTES, estimate
from mlxk.supervisor.measured import KEPT_MODELS, KEPT_RUNS, Kind, MeasuredPeaks
from tests.unit.supervisor.views import GB

KIND = Kind("m", "abc", 4 * GB, "mlx", GB)


def test_a_peak_outlives_the_run(tmp_path: Path) -> None:
    first = MeasuredPeaks(tmp_path / "measured.json")
    assert first.working_bytes(KIND) is None
    first.begin_run(KIND, 2.5)
    first.note_peak(KIND, 5 * GB)
    first.save()
    second = MeasuredPeaks(tmp_path / "measured.json")
    assert second.working_bytes(KIND) == 5 * GB
    assert second.load_s(KIND) == 2.5


@pytest.mark.parametrize(
    "change", [{"size_bytes": 5 * GB}, {"cache_bytes": 0}, {"engine": "fake"}, {"id": "def"}, {"name": "n"}]
)
def test_a_changed_model_does_not_use_an_old_peak(change: dict[str, object]) -> None:
    peaks = MeasuredPeaks()
    peaks.begin_run(KIND, 1.0)
    peaks.note_peak(KIND, 5 * GB)
    assert peaks.working_bytes(replace(KIND, **change)) is None  # type: ignore[arg-type]


def test_one_quiet_run_does_not_make_a_model_look_small_but_many_do() -> None:
    peaks = MeasuredPeaks()
    for run, peak in enumerate([6 * GB] + [5 * GB] * KEPT_RUNS):
        peaks.begin_run(KIND, 1.0)
        peaks.note_peak(KIND, peak)
        assert peaks.working_bytes(KIND) == (6 * GB if run < KEPT_RUNS else 5 * GB)


def test_only_a_higher_peak_of_a_run_is_news(tmp_path: Path) -> None:
    peaks = MeasuredPeaks(tmp_path / "measured.json")
    peaks.begin_run(KIND, 1.0)
    peaks.note_peak(KIND, 5 * GB)
    assert peaks.take_unsaved()
    peaks.note_peak(KIND, 4 * GB)
    peaks.note_peak(KIND, 5 * GB + 1000)
    assert peaks.take_unsaved() is None
    assert peaks.working_bytes(KIND) == 5 * GB


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b"{}",
        b'{"version": 1}',
        b'{"version": 2, "models": {}}',
        b'{"version": 1, "models": {"k": {"working_bytes": ["x"]}}}',
        b'{"version": 1, "models": {"k": {"working_bytes": [-5]}}}',
        b'{"version": 1, "models": ' + b'{"a":' * 5000,
        b" " * 2_000_000,
    ],
)
def test_a_file_that_is_not_ours_is_an_empty_one_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "measured.json"
    path.write_bytes(content)
    peaks = MeasuredPeaks(path)
    peaks.begin_run(KIND, 1.0)
    peaks.note_peak(KIND, 5 * GB)
    peaks.save()
    assert MeasuredPeaks(path).working_bytes(KIND) == 5 * GB


@pytest.mark.parametrize("obstacle", ["folder in its place", "no folder", "a pipe"])
def test_a_file_that_cannot_be_written_or_read_hurts_nobody(tmp_path: Path, obstacle: str) -> None:
    path = tmp_path / "home" / "measured.json"
    if obstacle != "no folder":
        path.parent.mkdir()
    if obstacle == "folder in its place":
        path.mkdir()
    elif obstacle == "a pipe":
        os.mkfifo(path)
    peaks = MeasuredPeaks(path)
    peaks.begin_run(KIND, 1.0)
    peaks.note_peak(KIND, 5 * GB)
    peaks.save()
    assert peaks.working_bytes(KIND) == 5 * GB
    assert not list(tmp_path.glob("**/*.new"))


def test_a_full_disk_hurts_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    path = tmp_path / "measured.json"
    path.with_name(f"{path.name}.{os.getpid()}.new").symlink_to("/dev/full")
    peaks = MeasuredPeaks(path)
    for peak in (5 * GB, 6 * GB):
        peaks.begin_run(KIND, 1.0)
        peaks.note_peak(KIND, peak)
        path.with_name(f"{path.name}.{os.getpid()}.new").unlink(missing_ok=True)
        path.with_name(f"{path.name}.{os.getpid()}.new").symlink_to("/dev/full")
        peaks.save()
    assert caplog.text.count("cannot be remembered") == 1  # told once, not with every write
    assert not path.exists()


def test_two_servers_keep_each_others_models(tmp_path: Path) -> None:
    one, other = (MeasuredPeaks(tmp_path / "measured.json") for _ in range(2))
    for peaks, name in ((one, "x"), (other, "y")):
        peaks.begin_run(replace(KIND, name=name), 1.0)
        peaks.note_peak(replace(KIND, name=name), 5 * GB)
        peaks.save()
    both = MeasuredPeaks(tmp_path / "measured.json")
    assert (
        both.working_bytes(replace(KIND, name="x")) == both.working_bytes(replace(KIND, name="y")) == 5 * GB
    )


def test_the_file_does_not_grow_without_end(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    for life in range(2):
        peaks = MeasuredPeaks(path)
        for number in range(KEPT_MODELS - 10):
            peaks.begin_run(replace(KIND, name=f"{life}-{number}"), 1.0)
        peaks.save()
    last = MeasuredPeaks(path)
    assert last.load_s(replace(KIND, name="1-0")) == 1.0
    assert last.load_s(replace(KIND, name="0-0")) is None


def test_an_estimate_says_where_it_comes_from_and_counts_the_whole_cache() -> None:
    guessed = estimate(4 * GB, GB, None, None)
    assert guessed.cost_bytes == int(4.4 * GB) + GB + OVERHEAD_BYTES
    assert (guessed.measured, guessed.load_measured) == (False, False)
    known = estimate(4 * GB, GB, 5 * GB, 3.0)
    assert (known.cost_bytes, known.measured) == (6 * GB, True)
    assert (known.load_s, known.load_measured) == (3.0, True)


def test_a_peak_below_the_weights_is_not_believed() -> None:
    assert estimate(4 * GB, GB, 2 * GB, None).cost_bytes == 5 * GB
