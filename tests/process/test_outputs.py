"""What every verb prints in terminals of several kinds, and without one: nothing crashes, no table wraps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.cells import cell_len

from mlxk.cli.main import VERBS
from tests.server import Server, add_fake_model, standing
from tests.terminal import Terminal

LONG = "mlx-community/A-Name-That-Is-Much-Longer-Than-What-A-Narrow-Terminal-Has-4bit"
WIDE = "模型/名字很长很长很长很长很长很长很长很长很长很长-e\u0301e\u0301"
FITTING = ("ps", "list", "list 4bit", "show one", "help")
"""No line of these is wider than the terminal."""
CALLS = (
    *FITTING,
    "ps --wide",
    "load one",
    f"load --dry-run {WIDE}",
    "stop one",
    f"stop {WIDE}",
    "logs -n 20",
    f"logs {LONG}",
    "events --no-follow",
    "doctor",
    "load nothing-like-it",
    "ps --json",
    "list --json",
    *(f"{verb} --help" for verb in VERBS),
)

PROGRAM = """
import sys
from mlxk.cli.main import invoke
sys.stdout.reconfigure(errors="replace")  # as main() does
for call in sys.argv[1:]:
    print(f"=== {call!a}", flush=True)
    code = invoke([] if call == "help" else call.split())
    print(f"=== end {int(code)}", flush=True)
"""


@dataclass(frozen=True)
class Place:
    """Where something is printed."""

    columns: int | None
    """None: a pipe."""
    env: dict[str, str] = field(default_factory=dict)
    ascii: bool = False
    plain: bool = False
    """No colors, no moves."""


PLACES = {
    "80": Place(80),
    "200": Place(200),
    "80-dumb": Place(80, {"TERM": "dumb"}, plain=True),
    "80-C-NO_COLOR": Place(80, {"LC_ALL": "C", "NO_COLOR": "1"}, plain=True),
    "80-ascii": Place(80, {"PYTHONIOENCODING": "ascii"}, ascii=True),
    "pipe-POSIX-FORCE_COLOR": Place(None, {"LC_ALL": "POSIX", "FORCE_COLOR": "1"}, plain=True),
    "pipe-latin-1": Place(None, {"PYTHONIOENCODING": "latin-1"}, plain=True),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("outputs")
    for name in ("one", LONG, WIDE):
        add_fake_model(home, name)
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "TZ": "Asia/Kolkata"}
    with standing(Server(home, env=env)) as server:
        server.call("load", {"models": [LONG, WIDE]})
        yield server


Printed = dict[str, tuple[list[str], int]]
_printed: dict[str, Printed] = {}


def printed(server: Server, kind: str) -> Printed:
    """All calls there; made once."""
    if kind not in _printed:
        _printed[kind] = print_all(server, PLACES[kind])
    return _printed[kind]


def print_all(server: Server, place: Place) -> Printed:
    """The lines and the exit code of each call, as they were printed there."""
    env = {name: value for name, value in server.env.items() if name not in ("PYTHONIOENCODING", "COLUMNS")}
    env |= {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color", **place.env}
    program = [sys.executable, "-P", "-c", PROGRAM]
    if place.columns is None:
        done = subprocess.run([*program, *CALLS], env=env, capture_output=True, timeout=120, check=True)
        raw = done.stdout
        assert b"Traceback" not in done.stderr
    else:
        with Terminal(list(CALLS), env, columns=place.columns, program=program) as terminal:
            assert terminal.wait_end(120) == 0
            raw = terminal.raw
    text = raw.decode(env.get("PYTHONIOENCODING", "utf-8")).replace("\r\n", "\n")
    assert not place.ascii or text.isascii()
    assert not (place.plain and "\x1b" in text)
    assert "Traceback" not in text
    bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\x1b" not in bare
    parts = re.findall(r"=== ('.*?')\n(.*?)=== end (\d+)\n", bare, re.DOTALL)
    assert len(parts) == len(CALLS)
    return {call: (body.splitlines(), int(code)) for call, (_, body, code) in zip(CALLS, parts, strict=True)}


@pytest.mark.parametrize("kind", PLACES)
def test_every_verb_prints_there(kind: str, server: Server) -> None:
    place, out = PLACES[kind], printed(server, kind)
    failed = {call: code for call, (_, code) in out.items() if code not in (0, 1 if call == "doctor" else 0)}
    assert failed == {"load nothing-like-it": 4}
    tables = [*FITTING, *(call for call in CALLS if call.endswith("--help"))]
    too_wide = {
        (call, line)
        for call in tables
        for line in out[call][0]
        if place.columns is not None and cell_len(line) > place.columns
    }
    assert too_wide == set()
    named = "\n".join(out["ps"][0])
    if place.columns in (None, 200):
        assert LONG in named
    else:
        dots = "..." if place.ascii or place.env.get("LC_ALL") == "C" else "…"
        assert re.search(rf"^mlx-commun\S*{re.escape(dots)}\S*4bit ", named, re.MULTILINE)
    assert {line.split()[-1] for line in out["ps"][0][1:]} <= {"10m", "9m"}


def test_columns_are_aligned_with_wide_characters_and_marks(server: Server) -> None:
    for kind in ("80", "200"):
        head, *rows = printed(server, kind)["list"][0]
        ends = {cell_len(row[: row.index(" healthy")]) for row in rows if row.endswith(" healthy")}
        assert len(rows) >= 4
        assert len(ends) == 1
        assert cell_len(head[: head.index(" HEALTH")]) in ends


def test_all_times_are_utc_and_say_so(server: Server) -> None:
    out = printed(server, "80-dumb")
    for call in ("logs -n 20", f"logs {LONG}", "events --no-follow"):
        text = "\n".join(out[call][0])
        assert not re.search(r"\d\d:\d\d:\d\d(?!Z)", text)
        stamps = re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text)
        assert stamps
        now = datetime.now(UTC)
        assert all(abs((now - datetime.fromisoformat(stamp)).total_seconds()) < 1800 for stamp in stamps)


def test_a_reader_that_leaves_ends_it_quietly(server: Server) -> None:
    command = f'"{sys.executable}" -P -m mlxk list | true'
    done = subprocess.run(
        ["/bin/sh", "-c", command], env={**os.environ, **server.env}, capture_output=True, check=False
    )
    assert done.stderr == b""
