"""`mlxk top` and `mlxk ps --watch` in a real terminal: what they show, and that they give it back."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.envelopes import check_envelope
from tests.process.conftest import StartServer
from tests.process.watch import clean_up_after_kill, until, workers_of
from tests.server import Server, add_fake_model, standing, wait_gone
from tests.terminal import Terminal, environment

LONG = "mlx-community/A-Name-That-Is-Much-Longer-Than-What-A-Narrow-Terminal-Has-4bit"
SCREENS = (["top"], ["ps", "--watch", "-n", "0.2s"])
SHOWN = r"READY|ready"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("screens")
    add_fake_model(home, "one")
    add_fake_model(home, LONG)
    with standing(Server(home, env={"MLXK_ENGINE": "fake", "MLXK_SPARE": "0"})) as server:
        server.call("load", {"models": ["one", LONG]})
        yield server


@pytest.fixture(params=SCREENS, ids=["top", "watch"])
def arguments(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


def modes(terminal: Terminal) -> list[object]:
    """Echo, line mode and the like, as the terminal has them now."""
    return list(termios.tcgetattr(terminal.child.fileno())[:4])


def first_modes() -> list[object]:
    """Of a terminal that nobody has touched. The program's own may have been changed before we look."""
    leader, follower = pty.openpty()
    try:
        return list(termios.tcgetattr(leader)[:4])
    finally:
        os.close(leader)
        os.close(follower)


def assert_given_back(terminal: Terminal, before: list[object]) -> None:
    assert terminal.raw.rfind(b"\x1b[?1049l") > terminal.raw.rfind(b"\x1b[?1049h") >= 0
    assert terminal.raw.rfind(b"\x1b[?25h") > terminal.raw.rfind(b"\x1b[?25l")
    assert terminal.raw.rfind(b"\x1b[?7h") > terminal.raw.rfind(b"\x1b[?7l")
    assert modes(terminal) == before


def last_frame(terminal: Terminal) -> str:
    """The last one that has come whole, without its colors."""
    frame = terminal.raw.rpartition(b"\x1b[J")[0].rpartition(b"\x1b[H")[2]
    return re.sub(r"\x1b\[[0-9;]*[mK]", "", frame.decode())


def open_screen(arguments: list[str], server: Server, **size: int) -> tuple[Terminal, list[object]]:
    return Terminal(arguments, server.env, **size), first_modes()


# ----------------------------------------------------------------------- how it ends


@pytest.mark.parametrize("key", ["q", "\x04"], ids=["q", "ctrl-d"])
def test_a_key_ends_the_screen(arguments: list[str], key: str, server: Server) -> None:
    terminal, before = open_screen(arguments, server)
    with terminal:
        terminal.wait_text(SHOWN)
        terminal.type(key)
        assert terminal.wait_end() == 0
        assert_given_back(terminal, before)


def test_ctrl_c_ends_the_screen_with_130(arguments: list[str], server: Server) -> None:
    terminal, before = open_screen(arguments, server)
    with terminal:
        terminal.wait_text(SHOWN)
        terminal.press("c")
        assert terminal.wait_end() == 130
        assert_given_back(terminal, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda n: n.name)
def test_a_signal_ends_it_as_it_would_any_program_and_the_terminal_is_given_back(
    arguments: list[str], number: signal.Signals, server: Server
) -> None:
    terminal, before = open_screen(arguments, server)
    with terminal:
        terminal.wait_text(SHOWN)
        os.kill(terminal.pid, number)
        assert terminal.wait_end() == -number
        assert_given_back(terminal, before)


def test_a_terminal_that_takes_nothing_keeps_nobody_from_ending_it(server: Server) -> None:
    terminal, before = open_screen(["top", "-n", "0.1s"], server)
    with terminal:
        terminal.wait_text(SHOWN)
        terminal.press("s")  # Ctrl-S: the terminal stops
        process = psutil.Process(terminal.pid)
        polled = process.num_ctx_switches().voluntary + 5
        until(lambda: process.num_ctx_switches().voluntary > polled)  # it draws, and nothing of it is taken
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.wait_end() == -signal.SIGTERM
        assert_given_back(terminal, before)


def test_an_exception_gives_the_terminal_back_and_is_told(server: Server) -> None:
    program = "import mlxk.cli.top_page as page, mlxk.cli.main as main\ndef broken(*_): 1 / 0\n"
    program += "page._head = broken\nmain.main()"
    with Terminal(["top"], server.env, program=[sys.executable, "-P", "-c", program]) as terminal:
        before = first_modes()
        assert terminal.wait_end() == 1
        assert_given_back(terminal, before)
        after = terminal.raw.rpartition(b"\x1b[?1049l")[2]
        assert b"ZeroDivisionError" in after


def test_a_closed_window_ends_it(arguments: list[str], server: Server) -> None:
    terminal, _ = open_screen(arguments, server)
    terminal.wait_text(SHOWN)
    terminal.hang_up()
    assert wait_gone([terminal.pid], 20.0) == []
    terminal.child.wait()
    terminal.child.close()


def test_a_window_that_is_closed_under_nohup_ends_it_too(server: Server) -> None:
    program = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\nimport mlxk.cli.main as main\n"
    program += "main.main()"
    terminal = Terminal(["top"], server.env, program=[sys.executable, "-P", "-c", program])
    terminal.wait_text(SHOWN)
    terminal.hang_up()
    assert wait_gone([terminal.pid], 20.0) == []
    terminal.child.wait()
    terminal.child.close()


def test_ctrl_z_gives_the_terminal_to_the_shell_until_it_goes_on(server: Server) -> None:
    script = 'set -m; "$0" -P -m mlxk top; echo "code $?"; read -r line; fg > /dev/null; echo "end $?"'
    with Terminal([], server.env, program=["/bin/bash", "-c", script, sys.executable]) as terminal:
        before = first_modes()
        terminal.wait_text(SHOWN)
        terminal.press("z")
        terminal.wait_for(lambda text: b"code 148" in terminal.raw)
        assert_given_back(terminal, before)
        terminal.enter()
        terminal.wait_for(lambda text: b"EVENTS" in terminal.raw.rpartition(b"\x1b[?1049h")[2])
        terminal.type("q")
        terminal.wait_for(lambda text: b"end 0" in terminal.raw)
        assert terminal.wait_end() == 0
        assert_given_back(terminal, before)


# --------------------------------------------------------------------- what it shows


def test_the_screen_fills_every_size_and_never_wraps(arguments: list[str], server: Server) -> None:
    fits = r"mlx-comm\S*…\S*4bit +(ready|\w+ +ready)"
    terminal, _ = open_screen(arguments, server, columns=80, rows=24)
    with terminal:
        terminal.wait_text(fits)
        terminal.resize(200, 50)
        terminal.wait_text(re.escape(LONG))
        terminal.resize(40, 8)
        terminal.wait_for(lambda text: LONG not in text and "…" in text)
        terminal.resize(10, 2)
        terminal.resize(80, 24)
        # Frames of a former size may still be on their way, and scroll what they find.
        terminal.wait_for(lambda _: re.search(fits, last_frame(terminal)))
        assert last_frame(terminal).count("\r\n") < 24
        terminal.type("q")
        assert terminal.wait_end() == 0


def test_top_shows_the_server_its_models_and_what_happens(server: Server) -> None:
    with Terminal(["top", "-n", "0.2s"], server.env, columns=120, rows=30) as terminal:
        text = terminal.wait_text("EVENTS")
        assert server.url in text
        assert f"pid {server.pid}" in text
        assert re.search(r"^memory .* of .* models 2  requests 0  queued 0", text, re.MULTILINE)
        assert re.search(r"^one +ready +[█░]+ [\d.]+ \wB", text, re.MULTILINE)
        server.call("stop", {"models": ["one"]})
        text = terminal.wait_text(r"Z  one  stopped, \S+ \S+ freed")
        assert "load_progress" not in text
        terminal.wait_text("models 1 ")
        server.call("load", {"models": ["one"]})
        terminal.wait_text("models 2 ")
        terminal.type("s")
        terminal.wait_text(r"s sort \(memory\)")
        terminal.type("w")
        terminal.wait_text("PID +UPTIME +RESTARTS")
        terminal.type("\x1b[A\x1bOqs")  # an arrow and a function key: no letter of theirs is a key
        terminal.wait_text(r"s sort \(speed\)")
        terminal.type("ssw")  # each of several at once
        terminal.wait_for(lambda text: "s sort (memory)" in text and "RESTARTS" not in text)
        terminal.type("q")
        assert terminal.wait_end() == 0


def test_no_keyboard_is_needed(server: Server) -> None:
    program = ["/bin/sh", "-c", f'exec "{sys.executable}" -P -m mlxk top < /dev/null']
    with Terminal([], server.env, program=program) as terminal:
        terminal.wait_text(SHOWN)
        terminal.press("c")
        assert terminal.wait_end() == 130


@pytest.mark.parametrize("variable", ["NO_COLOR", "PLAIN"])
def test_colors_can_be_had_and_left(variable: str, server: Server) -> None:
    with Terminal(["top"], {**server.env, variable: "1"}) as terminal:
        terminal.wait_text(SHOWN)
        assert (b"\x1b[32m" in terminal.raw) is (variable == "PLAIN")
        terminal.type("q")
        assert terminal.wait_end() == 0


def test_a_terminal_without_blocks_gets_ascii(server: Server) -> None:
    for env in ({"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}):
        with Terminal(["top"], {**server.env, **env}, columns=80) as terminal:
            text = terminal.wait_text(SHOWN)
            assert text.isascii()
            assert re.search(r"#*-+", text)
            assert "..." in text
            terminal.type("q")
            assert terminal.wait_end() == 0


# ------------------------------------------------------------- a server that goes


def test_the_screen_says_that_the_server_has_gone_and_waits_for_the_next(
    start: StartServer, tmp_path: Path
) -> None:
    add_fake_model(tmp_path, "one")
    server = start()
    server.call("load", {"models": ["one"]})
    with (
        Terminal(["top", "-n", "0.2s"], server.env) as top,
        Terminal(["ps", "--watch", "-n", "0.2s"], server.env) as watch,
        watching(server, "--json") as rows,
        watching(server) as tables,
    ):
        for terminal in (top, watch):
            terminal.wait_text(SHOWN)
        # A watcher that first looks when the server has gone ends with exit 3.
        first_rows = read_until(rows, len)
        read_until(tables, len)
        workers = workers_of(server)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        assert wait_gone(workers, 20.0) == []
        clean_up_after_kill(server)
        for terminal in (top, watch):
            terminal.wait_text("no server is running")
        next_server = start()
        for terminal in (top, watch):
            terminal.wait_for(lambda text: "no server is running" not in text and "waiting" not in text)
        next_server.call("load", {"models": ["one"]})
        for terminal in (top, watch):
            terminal.wait_text(SHOWN)
            terminal.type("q")
            assert terminal.wait_end() == 0
        later_rows = read_until(rows, lambda lines: '"ready"' in lines[-1] and '"error": {' in "".join(lines))
        kinds = [json.loads(line)["status"] for line in first_rows + later_rows]
        assert kinds[0] == kinds[-1] == "success"
        assert kinds.count("error") == 1
        read_until(tables, lambda lines: lines[-1].startswith("one "))


# ------------------------------------------------------------------------- on a pipe


@contextmanager
def watching(server: Server, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`mlxk ps --watch` with pipes; ended with SIGINT, which is exit 130."""
    command = [sys.executable, "-P", "-m", "mlxk", "ps", "--watch", "-n", "0.2s", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=server.env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    ) as process:
        try:
            yield process
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()


def read_until(process: subprocess.Popen[bytes], condition: Callable[[list[str]], object]) -> list[str]:
    """All lines of its output so far, as soon as `condition` holds for them."""
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or not condition(lines):
        ready, _, _ = select.select([process.stdout], [], [], 30)
        assert ready, lines
        line = process.stdout.readline().decode()
        assert line, lines
        lines.append(line.rstrip("\n"))
    return lines


def test_on_a_pipe_each_look_is_a_table_with_whole_names(server: Server) -> None:
    with watching(server) as process:
        lines = read_until(process, lambda lines: sum(line.startswith("one ") for line in lines) == 2)
    assert not any("\x1b" in line for line in lines)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", lines[0])
    assert sum(line.startswith(f"{LONG} ") for line in lines) >= 1
    assert lines.count("") == 1


def test_as_json_each_look_is_an_envelope_on_one_line(server: Server) -> None:
    with watching(server, "--json") as process:
        lines = read_until(process, lambda lines: len(lines) == 2)
    for line in lines:
        envelope = json.loads(line)
        check_envelope(envelope)
        assert (envelope["status"], envelope["command"], envelope["error"]) == ("success", "ps", None)
        assert {model["name"] for model in envelope["data"]["models"]} == {"one", LONG}


def test_a_dumb_terminal_gets_tables_too(server: Server) -> None:
    with Terminal(["ps", "--watch", "-n", "0.2s"], {**server.env, "TERM": "dumb"}) as terminal:
        terminal.wait_for(lambda text: text.count("NAME") >= 2)
        assert b"\x1b" not in terminal.raw
        terminal.press("c")
        assert terminal.wait_end() == 130


def test_it_ends_when_nobody_reads(server: Server) -> None:
    command = f'"{sys.executable}" -P -m mlxk ps --watch -n 0.2s | head -1'
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=server.env, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [["top"], ["top", "--json"]], ids=["text", "json"])
def test_top_without_a_terminal_says_what_to_use(arguments: list[str], server: Server) -> None:
    done = server.cli(*arguments)
    assert done.returncode == 2
    assert "mlxk ps --watch --json" in done.stdout + done.stderr
    if "--json" in arguments:
        assert json.loads(done.stdout)["error"]["type"] == "usage"


def test_without_a_server_there_is_no_screen(arguments: list[str], tmp_path: Path) -> None:
    with Terminal(arguments, environment(MLXK_HOME=str(tmp_path))) as terminal:
        assert terminal.wait_end() == 3
        assert "mlxk serve" in terminal.text()
        assert b"1049" not in terminal.raw


@pytest.mark.parametrize("wrong", [["-n", "0s"], ["-n", "x"], ["-n", "2d"]], ids=lambda words: words[1])
def test_a_wrong_interval_is_a_usage_error(wrong: list[str], tmp_path: Path) -> None:
    with Terminal(["ps", "--watch", *wrong], environment(MLXK_HOME=str(tmp_path))) as terminal:
        assert terminal.wait_end() == 2
