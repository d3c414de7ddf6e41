from __future__ import annotations

import contextlib
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxk.config.units import format_duration, format_size, format_time, parse_duration_s, parse_size


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        (0, 0),
        (123, 123),
        ("123", 123),
        ("0", 0),
        ("8GB", 8_000_000_000),
        ("8gb", 8_000_000_000),
        ("8G", 8_000_000_000),
        ("512MiB", 512 * 1024**2),
        ("1.5 GiB", 3 * 1024**3 // 2),
        ("  2 TB ", 2 * 10**12),
        ("1kb", 1000),
        ("1KiB", 1024),
        ("10 B", 10),
        ("0.0001KB", 0),
        ("9007199254740993", 9007199254740993),  # above 2**53: a float would lose the last byte
    ],
)
def test_sizes_are_read(text: str | int, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize(
    "text",
    ["", "GB", "8 XB", "-1", "-8GB", "8,5GB", "1e9", "8GBs", "٣GB", ".5GB", "1.GB", -1, True, None, 8.5, []],
)
def test_what_is_no_size_is_refused_with_what_is_accepted(text: object) -> None:
    with pytest.raises(ValueError, match=r"such as 8GB or 1\.5GiB"):
        parse_size(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90.0),
        ("90", 90.0),
        (1.5, 1.5),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("24h0m0.5s", 86400.5),
        ("300ms", 0.3),
        ("2d", 172800.0),
        (".5s", 0.5),
        ("+10s", 10.0),
        (" 10s ", 10.0),
        (0, 0.0),
        ("0", 0.0),
        ("-0", 0.0),
        ("0s", 0.0),
        (-1, -1.0),
        ("-1", -1.0),
        ("-10m", -1.0),
        (-0.5, -1.0),
        ("forever", -1.0),
    ],
)
def test_durations_are_read(text: str | float, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "10 m",
        "10x",
        "1h30",
        "10m 5s",
        "--1",
        "-",
        "1e3",
        "nan",
        "inf",
        math.inf,
        math.nan,
        True,
        None,
        10**400,
    ],
)
def test_what_is_no_duration_is_refused_with_what_is_accepted(text: object) -> None:
    with pytest.raises(ValueError, match="or -1 for forever"):
        parse_duration_s(text)  # type: ignore[arg-type]


def test_an_error_does_not_repeat_a_hostile_text_in_full() -> None:
    with pytest.raises(ValueError, match="is not a duration") as caught:
        parse_duration_s("9" * 100_000)
    assert len(str(caught.value)) < 300


@given(st.text() | st.integers() | st.floats() | st.none() | st.booleans())
def test_parsers_give_a_sane_number_or_a_value_error(value: object) -> None:
    with contextlib.suppress(ValueError):
        assert parse_size(value) >= 0  # type: ignore[arg-type]
    with contextlib.suppress(ValueError):
        seconds = parse_duration_s(value)  # type: ignore[arg-type]
        assert seconds == -1.0 or (seconds >= 0 and math.isfinite(seconds))


@given(st.integers(0, 10**15))
def test_a_formatted_size_reads_back_to_about_the_same(n_bytes: int) -> None:
    assert abs(parse_size(format_size(n_bytes)) - n_bytes) <= max(1, n_bytes * 0.051)


@given(st.integers(0, 1000), st.integers(0, 59), st.integers(0, 59))
def test_a_compound_duration_is_the_sum_of_its_parts(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration_s(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@given(st.floats(0, 1e9))
def test_a_formatted_duration_reads_back_rounded_down(seconds: float) -> None:
    again = parse_duration_s(format_duration(seconds))
    assert again <= seconds <= again * 2 + 60


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (1_800_000, "1.8 MB"),
        (99_950, "100 KB"),
        (512_000_000, "512 MB"),
        (999_499, "999 KB"),
        (999_500, "1.0 MB"),
        (17_179_869_184, "17.2 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes_are_written(n_bytes: int, text: str) -> None:
    assert format_size(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (299, "4m"),
        (7200, "2h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (3 * 86400, "3d"),
        (99 * 365 * 86400, "36135d"),
        (1e99, "forever"),
        (-1, "forever"),
        (math.inf, "forever"),
    ],
)
def test_durations_are_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("unix_s", "digits", "text"),
    [
        (0, 0, "1970-01-01T00:00:00Z"),
        (1763700000.999, 0, "2025-11-21T04:40:00Z"),
        (1763700000.123, 3, "2025-11-21T04:40:00.123Z"),
        (1763700000.9999, 3, "2025-11-21T04:40:00.999Z"),
        (1763700000, 3, "2025-11-21T04:40:00.000Z"),
    ],
)
def test_a_time_is_utc_wherever_one_is(
    unix_s: float, digits: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert format_time(unix_s, digits=digits) == text
    finally:
        monkeypatch.undo()
        time.tzset()
