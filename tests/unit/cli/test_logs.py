"""`mlxk logs` and `mlxk events` without a server: files, names, and what people read."""

from __future__ import annotations

import pytest

from mlxk.cli.events import format_event
from mlxk.cli.logs import _put, format_crash
from mlxk.config.crash_file import write_crash
from mlxk.config.log_files import model_log, server_log
from mlxk.config.log_writer import RotatingFile


@pytest.fixture
def folder(home):
    return home / "logs"


def test_the_servers_last_lines_work_without_a_server(mlxk_here, folder):
    RotatingFile(server_log(folder)).write(b"one\ntwo\nthree\n")
    result = mlxk_here("logs", "-n", "2")
    assert (result.code, result.out) == (0, "two\nthree\n")
    data = mlxk_here("logs", "--json").data
    assert (data["model"], data["lines"]) == (None, ["one", "two", "three"])
    assert data["path"].endswith("server.log")


def test_a_server_that_never_ran_is_a_remark(mlxk_here):
    result = mlxk_here("logs")
    assert (result.code, result.out) == (0, "")
    assert "The server has no log yet" in result.err
    assert mlxk_here("logs", "--json").data["lines"] == []


def test_a_model_is_found_by_any_of_its_names(mlxk_here, folder, home):
    home.mkdir()
    (home / "config.toml").write_text('[models."short"]\nid = "tiny"\n')
    RotatingFile(model_log(folder, "short")).write(b"as short\n")
    RotatingFile(model_log(folder, "tiny")).write(b"as tiny\n")
    assert mlxk_here("logs", "short").out == "as short\n"
    assert mlxk_here("logs", "TIN").out == "as tiny\n"


def test_an_unknown_model_is_exit_4_and_a_removed_one_keeps_its_log(mlxk_here, folder):
    assert mlxk_here("logs", "org/gone").code == 4
    assert mlxk_here("logs", "org/gone", "--json").error["type"] == "model_not_found"
    RotatingFile(model_log(folder, "org/gone")).write(b"it was here\n")
    assert mlxk_here("logs", "org/gone").out == "it was here\n"


def test_a_broken_model_still_shows_its_log(mlxk_here, folder, home):
    (home / "models" / "broken").mkdir(parents=True)
    (home / "models" / "broken" / "config.json").write_text("{")
    RotatingFile(model_log(folder, "broken")).write(b"why\n")
    assert mlxk_here("logs", "broken").out == "why\n"


def test_binary_lines_are_valid_json(mlxk_here, folder):
    RotatingFile(model_log(folder, "tiny")).write(bytes(range(256)) + b"\n\xff\xfe\n")
    assert len(mlxk_here("logs", "tiny", "--json").data["lines"]) == 3


@pytest.mark.parametrize("arguments", [["--last-crash", "-f"], ["-n", "-1"], ["-n", "x"], ["a", "b"]])
def test_wrong_usage_is_exit_2(mlxk_here, arguments):
    assert mlxk_here("logs", *arguments).code == 2


CRASH = {
    "model": "tiny",
    "worker": "w3",
    "pid": 99,
    "started_at": "2026-01-01T00:00:00Z",
    "ended_at": "2026-01-01T00:00:09Z",
    "state": "ready",
    "exit": {"code": None, "signal": 9, "step": "none"},
    "reason": "killed by SIGKILL from outside, probably because memory ran out",
    "requests": 2,
    "lines": ["first", "\x1b[2Jlast"],
    "version": "0",
}


def test_the_last_crash_says_why_when_and_what_was_printed(mlxk_here, folder):
    write_crash(folder, CRASH)
    out = mlxk_here("logs", "--last-crash", "tiny").out
    for words in (
        "2026-01-01T00:00:09Z",
        "memory ran out",
        "w3 (pid 99)",
        "ready, requests running: 2",
        "signal 9",
    ):
        assert words in out
    assert out.endswith("  first\n  ?[2Jlast\n")
    assert mlxk_here("logs", "--last-crash").out == out
    assert mlxk_here("logs", "--last-crash", "--json", "-n", "1", "tiny").data["crash"]["lines"] == [
        "\x1b[2Jlast"
    ]


def test_no_crash_is_no_error(mlxk_here, folder):
    assert mlxk_here("logs", "--last-crash").out == "No crash of any model is known.\n"
    assert mlxk_here("logs", "--last-crash", "tiny", "--json").data == {"model": "tiny", "crash": None}


def test_a_crash_note_of_another_version_is_still_shown():
    assert "m crashed at None" in format_crash({"model": "m", "lines": [], "exit": "?"})


def test_a_line_is_held_until_it_ends_unless_it_is_very_long(capsysbinary):
    held = _put(b"half", b"", False)
    assert capsysbinary.readouterr().out == b""
    assert _put(b" and whole\nnext", held, False) == b"next"
    assert capsysbinary.readouterr().out == b"half and whole\n"
    assert _put(b"x" * 70_000, b"", False) == b""
    assert len(capsysbinary.readouterr().out) == 70_000


def test_events_without_a_server_are_exit_3(mlxk_here):
    assert mlxk_here("events").code == 3
    assert mlxk_here("events", "--json").error["type"] == "server_not_running"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            {"kind": "loaded", "model": "m", "load_s": 1.23, "worker": "w1", "memory_bytes": 10**9},
            "m  loaded in 1.2 s",
        ),
        ({"kind": "load_progress", "model": "m", "done_bytes": 1, "total_bytes": 4}, "25 %"),
        ({"kind": "died", "model": "m", "worker": "w1", "exit": "exit code 1"}, "crashed on w1: exit code 1"),
        ({"kind": "evicted", "model": "m", "reason": "room"}, "evicted (room)"),
        ({"kind": "evicted", "model": "m", "reason": "room", "room_for": "x"}, "evicted (room for x)"),
        ({"kind": "server", "state": "closing"}, "server  is closing"),
        ({"kind": "lost", "count": 7}, "7 events were missed"),
        ({"kind": "of tomorrow", "model": "m\x1b[2J", "fact": 1}, "of tomorrow fact=1"),
        ({"kind": "loaded"}, "loaded in 0.0 s"),
    ],
)
def test_every_event_is_a_line_for_people(event, words):
    line = format_event({"n": 1, "time": 0.0, **event})
    assert line.startswith("1970-01-01T00:00:00Z  ")
    assert words in line
    assert line.isprintable()
