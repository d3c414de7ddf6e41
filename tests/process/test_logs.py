"""Logs and events of a real server: what workers print never stops one, and whoever reads slowly holds up
nobody."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psutil
import pytest

from mlxk.config.units import format_time
from tests.process.client import Request
from tests.process.watch import pid_of, until
from tests.server import Server, add_fake_model, standing

LINES = 100_000
LONG = 1_000_000
SOONER = """import sys, mlxk.supervisor.control_streams as control_streams
from mlxk.__main__ import main
control_streams.ALIVE_S = 0.5
sys.exit(main())
"""
"""`mlxk` that finds out after half a second, and not after five, that the client of a stream has gone."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("logs")
    add_fake_model(home, "org/Flood", flood_log_lines=LINES)
    add_fake_model(home, "longline", long_log_line_bytes=LONG)
    add_fake_model(home, "holder", grandchild=True)
    add_fake_model(home, "binary", binary_output_bytes=300_000)
    add_fake_model(home, "dies", die_in_load=True)
    add_fake_model(home, "crashes", crash_at_step=3)
    add_fake_model(home, "busy", step_s=0.001)
    add_fake_model(home, "unused")
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0"}
    with standing(Server(home, env=env, program=("-c", SOONER))) as server:
        yield server


def stop(server: Server, model: str) -> None:
    server.call("stop", {"models": [model], "now": True})


def logged(server: Server, model: str, *arguments: str) -> str:
    result = server.cli("logs", model, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@contextmanager
def running(server: Server, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`mlxk ARGUMENTS` with pipes that nobody reads, unless the test does."""
    command = [sys.executable, "-P", "-m", "mlxk", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=server.env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def listeners(server: Server) -> int:
    return int(server.call("counts")["listeners"])


# ------------------------------------------------------------------- what workers print


def test_a_log_line_over_64_kb_does_not_deadlock_a_worker(server: Server) -> None:
    with Request(server, "longline") as request:
        assert request.text() == "w0 w1 w2 w3"
    until(lambda: any(len(line) >= LONG for line in logged(server, "longline").splitlines()))
    stop(server, "longline")


def test_a_flood_of_lines_does_not_stall_a_worker(server: Server) -> None:
    with Request(server, "org/Flood") as request:
        assert request.text() == "w0 w1 w2 w3"
    until(lambda: f"flood line {LINES - 1}" in logged(server, "org/Flood", "-n", "1"))
    files = list((server.home / "logs").glob("org--Flood*.log*"))
    assert 2 <= len(files) <= 3
    text = logged(server, "org/Flood", "-n", str(LINES))
    numbers = [
        int(line.split()[4]) for line in text.splitlines() if line.startswith("fake engine: flood line")
    ]
    if "are missing here" not in text:  # a disk that was too slow, which is then told
        assert numbers == list(range(numbers[0], LINES))
    stop(server, "org/Flood")


def test_binary_output_is_kept_and_cannot_steer_a_terminal(server: Server) -> None:
    with Request(server, "binary") as request:
        assert request.text()
    assert b"\x1b]0;title\x07" in raw_log(server, "binary")
    leader, follower = pty.openpty()
    command = [sys.executable, "-P", "-m", "mlxk", "logs", "-n", "9999", "binary"]
    with subprocess.Popen(command, env=server.env, stdin=subprocess.DEVNULL, stdout=follower) as process:
        os.close(follower)
        shown = b""
        while block := read_terminal(leader):
            shown += block
        assert process.wait(20) == 0
    os.close(leader)
    assert b"fake engine: binary" in shown
    assert not {byte for byte in shown if byte < 32} - set(b"\r\n")
    assert b"\x7f" not in shown
    stop(server, "binary")


def raw_log(server: Server, model: str) -> bytes:
    path = server.home / "logs" / f"{model}.log"
    until(lambda: path.exists() and path.stat().st_size >= 300_000)
    return path.read_bytes()


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux: the other end is closed
        return b""


def test_a_grandchild_that_holds_the_pipes_keeps_no_dead_worker(server: Server) -> None:
    with Request(server, "holder") as request:
        assert request.text()
    [grandchild] = psutil.Process(pid_of(server, "holder")).children()
    try:
        os.kill(pid_of(server, "holder"), signal.SIGKILL)
        server.wait_for(lambda models: "holder" not in models or models["holder"]["pid"] is None)
        with Request(server, "holder") as request:
            assert request.text()
        until(lambda: "killed by SIGKILL" in logged(server, "holder", "--last-crash"))
    finally:
        for process in [grandchild, *psutil.Process(pid_of(server, "holder")).children()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    stop(server, "holder")


def test_a_removed_logs_folder_or_an_unwritable_file_stops_no_worker(server: Server) -> None:
    import shutil

    shutil.rmtree(server.home / "logs")
    (server.home / "logs").touch()
    with Request(server, "longline") as request:
        assert request.text()
    until(lambda: "cannot be written" in server.log())
    (server.home / "logs").unlink()

    def is_written_again() -> bool:  # it is tried every 2 s
        stop(server, "longline")
        server.call("load", {"models": ["longline"]})
        return (server.home / "logs" / "longline.log").exists()

    until(is_written_again)
    stop(server, "longline")
    until(
        lambda: "are missing here: the file could not be written" in logged(server, "longline", "-n", "9999")
    )


# -------------------------------------------------------------------------- slow readers


def test_a_slow_reader_of_logs_stalls_nothing(server: Server) -> None:
    with running(server, "logs", "-f", "-n", "0", "org/Flood"):
        for _ in range(2):  # more than a pipe holds; nobody reads it
            with Request(server, "org/Flood") as request:
                assert request.text()
            stop(server, "org/Flood")


def test_listeners_that_never_read_stall_nothing_and_cost_bounded_memory(server: Server) -> None:
    """Over the control socket and over HTTP: some three hundred events for clients that
    take none. A reload is an event without a process; some loads give those of a worker's life."""
    import socket

    address = urlsplit(server.url)
    with (
        running(server, "events", "--json"),
        socket.create_connection((address.hostname, address.port)) as peer,
    ):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.sendall(b"GET /pool/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: listeners(server) == 2)
        front = psutil.Process(server.pid)
        load_and_stop(server, 3)
        reload(server, 50)
        before = front.memory_info().rss
        load_and_stop(server, 5)
        reload(server, 250)
        with Request(server, "busy", words=200) as request:
            assert request.text().endswith("w199")
        assert front.memory_info().rss - before < 30_000_000
        assert listeners(server) == 2
    until(lambda: listeners(server) == 0)


def load_and_stop(server: Server, times: int) -> None:
    for _ in range(times):
        server.call("load", {"models": ["busy"]})
        stop(server, "busy")


def reload(server: Server, times: int) -> None:
    with server.control() as client:
        for _ in range(times):
            client.call("reload", {}, timeout_s=60)


# -------------------------------------------------------------------------------- events


def test_events_tell_of_a_models_life(server: Server) -> None:
    stop(server, "busy")
    with running(server, "events", "--json", "-n", "0") as events:
        until(lambda: listeners(server) == 1)
        server.call("load", {"models": ["busy"]})
        stop(server, "busy")
        with Request(server, "dies") as request:
            assert request.status == 503
        seen: list[tuple[str, str]] = []
        assert events.stdout is not None
        while ("dies", "died") not in seen:
            event = json.loads(events.stdout.readline())
            assert {"n", "time", "kind"} <= set(event)
            assert event["at"] == format_time(event["time"], digits=3)
            seen.append((event["model"], event["kind"]))
        life = [kind for model, kind in seen if model == "busy"]
        assert {"state", "load_progress", "loaded", "stopped"} <= set(life)
        assert life.index("load_progress") < life.index("loaded") < life.index("stopped")
        events.send_signal(signal.SIGINT)
        assert events.wait(10) == 130
    until(lambda: listeners(server) == 0)


def test_past_events_are_lines_for_people(server: Server) -> None:
    server.call("load", {"models": ["busy"]})
    stop(server, "busy")
    result = server.cli("events", "--no-follow", "-n", "20")
    assert result.returncode == 0
    assert "  busy  loaded in " in result.stdout
    assert len(server.cli("events", "--no-follow", "-n", "3").stdout.splitlines()) == 3


def test_clients_that_were_killed_or_cut_off_leave_no_listener(server: Server) -> None:
    front = psutil.Process(server.pid)
    until(lambda: listeners(server) == 0)
    before = front.num_fds(), server.call("counts")["tasks"]
    for end in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        with running(server, "events") as one:
            until(lambda: listeners(server) == 1)
            one.send_signal(end)
            one.wait(10)
        until(lambda: listeners(server) == 0)
    with running(
        server, "events"
    ) as one:  # its reader leaves, as `head` does; no event comes that would tell
        until(lambda: listeners(server) == 1)
        assert one.stdout is not None
        one.stdout.close()
        assert one.wait(10) == 0  # as of every verb that only shows
        assert one.stderr is not None
        assert one.stderr.read() == b""
    until(lambda: listeners(server) == 0)
    until(lambda: (front.num_fds(), server.call("counts")["tasks"]) <= before)


def test_every_listener_ends_with_the_server(start: Callable[..., Server]) -> None:
    server = start()
    with running(server, "events") as people, running(server, "events", "--json") as script:
        until(lambda: listeners(server) == 2)
        server.signal(signal.SIGINT)
        out, err = people.communicate(timeout=20)
        assert (people.returncode, script.wait(20)) == (0, 0)
        assert out.decode().splitlines()[-1].endswith("server  is closing")
        assert err.decode() == "the server has ended\n"
        assert script.stdout is not None
        assert json.loads(script.stdout.read().splitlines()[-1])["state"] == "closing"
        assert server.wait() == 130


def test_listeners_of_a_server_that_is_killed_end_too(start: Callable[..., Server]) -> None:
    from tests.process.watch import clean_up_after_kill, run_dir

    server = start()
    with running(server, "events") as events:
        until(lambda: listeners(server) == 1)
        server.signal(signal.SIGKILL)
        server.wait()
        assert events.wait(20) == 0
    clean_up_after_kill(server)
    assert not run_dir(server).exists()


# ---------------------------------------------------------------------------- mlxk logs


def test_logs_follows_across_workers_and_ends_by_ctrl_c(server: Server) -> None:
    server.call("load", {"models": ["busy"]})
    until(lambda: "is for busy" in logged(server, "busy", "-n", "1"))  # not of an earlier load
    with running(server, "logs", "-f", "-n", "1", "bus") as follower:
        assert follower.stdout is not None
        follower.stdout.readline()
        stop(server, "busy")
        assert b"has ended: exit code 0" in follower.stdout.readline()
        server.call("load", {"models": ["busy"]})
        assert b"is for busy" in follower.stdout.readline()
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130
        assert follower.stderr is not None
        assert follower.stderr.read() == b""


def test_logs_follows_a_flood_across_rotations(server: Server) -> None:
    """Three files' worth of lines within a second or so: none is lost without a word, none comes twice."""
    server.call("load", {"models": ["org/Flood"]})
    stop(server, "org/Flood")
    until(lambda: "has ended" in logged(server, "org/Flood", "-n", "1"))
    with running(server, "logs", "-f", "-n", "1", "org/Flood") as follower:
        assert follower.stdout is not None
        assert b"has ended" in follower.stdout.readline()  # from here on nothing may be missed
        server.call("load", {"models": ["org/Flood"]})
        numbers: list[int] = []
        missing = False
        for line in follower.stdout:
            if line.startswith(b"fake engine: flood line"):
                numbers.append(int(line.split()[4]))
                if numbers[-1] == LINES - 1:
                    break
            missing = missing or b"are missing here" in line
        follower.send_signal(signal.SIGINT)
        assert follower.stderr is not None
        missing = missing or b"before they could be read" in follower.stderr.read()
    assert numbers == sorted(set(numbers))
    assert len(numbers) == LINES or missing
    stop(server, "org/Flood")


def test_logs_ends_when_its_reader_has_left(server: Server) -> None:
    with running(server, "logs", "-f", "-n", "1") as follower:
        assert follower.stdout is not None
        follower.stdout.readline()
        follower.stdout.close()
        assert follower.wait(10) == 0
        assert follower.stderr is not None
        assert follower.stderr.read() == b""


def test_names_are_resolved_and_unknown_ones_are_exit_4(server: Server) -> None:
    with Request(server, "org/Flood") as request:
        assert request.text()
    stop(server, "org/Flood")
    data = json.loads(server.cli("logs", "flood", "--json", "-n", "2").stdout)["data"]
    assert data["model"] == "org/Flood"
    assert len(data["lines"]) == 2
    assert server.cli("logs", "nobody").returncode == 4
    quiet = server.cli("logs", "unused")
    assert (quiet.returncode, quiet.stdout) == (0, "")
    assert "unused has never run here" in quiet.stderr


def test_the_servers_log_is_shown_without_a_model(server: Server) -> None:
    with Request(server, "unknown") as request:
        assert request.status == 404
    until(lambda: "404" in server.cli("logs", "-n", "20").stdout)


# ------------------------------------------------------------------------------- crashes


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "probably because memory ran out"), (signal.SIGSEGV, "SIGSEGV")]
)
def test_a_signal_is_named_and_a_kill_from_outside_explained(server: Server, number: int, words: str) -> None:
    with Request(server, "busy", words=100_000, stream=True) as request:
        request.next_event()
        os.kill(pid_of(server, "busy"), number)
        assert words in request.last_error()["message"]
    until(lambda: words in logged(server, "busy", "--last-crash"))
