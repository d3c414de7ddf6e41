"""Signals before there is a server, in the background, and for a server of one `mlxk run`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from mlxk.config.instance import Instance
from tests.process.conftest import StartServer
from tests.process.watch import press_again, until
from tests.server import add_fake_model, wait_gone

INTERRUPTED = 130
MOMENTS_S = [0.0, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8]
"""After our first line; a start takes about 0.8 s."""
ENTRY = """
import os, signal
signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until ours is there: Python's own start is its own
os.write({fd}, b"x")
from mlxk.__main__ import main
main()
"""

PRESSED_WHILE_CLASSES_ARE_MADE = """
import os, signal, dataclasses
make = dataclasses.Field.__set_name__
def press_and_make(*words):
    os.kill(os.getpid(), signal.SIGINT)
    make(*words)
dataclasses.Field.__set_name__ = press_and_make
os.write({fd}, b"x")
from mlxk.cli.main import main  # as `mlxk.__main__` does it, behind the moment that ends at once
main()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    add_fake_model(tmp_path, "a", step_s=0.005)
    add_fake_model(tmp_path, "slow", load_s=60)
    return tmp_path


class Command:
    """`mlxk ARGUMENTS`, to be signalled as a terminal would."""

    def __init__(self, home: Path, arguments: Sequence[str], program: Sequence[str] = ("-m", "mlxk")) -> None:
        env = {**os.environ, "MLXK_HOME": str(home), "HF_HOME": str(home / "hf"), "MLXK_ENGINE": "fake"}
        self.log_path = home / "command.out"
        self.began_read, began_write = os.pipe()
        program = [part.format(fd=began_write) for part in program]
        with self.log_path.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *program, *arguments],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(began_write,),
                start_new_session=True,
            )
        os.close(began_write)

    def await_first_line(self) -> None:
        assert os.read(self.began_read, 1) == b"x"

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.began_read)


@contextlib.contextmanager
def running(home: Path, *arguments: str, program: Sequence[str] = ("-m", "mlxk")) -> Iterator[Command]:
    command = Command(home, arguments, program)
    try:
        yield command
    finally:
        command.end()


def assert_nothing_left(home: Path, socket_root: Path, before: set[Path]) -> None:
    assert not list(home.glob("instance.json*"))
    assert set(socket_root.glob("mlxk-*")) <= before


SERVE = ("serve", "--port", "0")
SIGINT_OR_SIGTERM = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 0)], ids=["SIGINT", "SIGTERM"]
)


@SIGINT_OR_SIGTERM
def test_a_signal_at_any_moment_of_the_start(home: Path, socket_root: Path, number: int, code: int) -> None:
    before = set(socket_root.glob("mlxk-*"))
    for moment_s in MOMENTS_S:
        with running(home, *SERVE, "slow", program=["-c", ENTRY]) as command:
            command.await_first_line()
            with contextlib.suppress(subprocess.TimeoutExpired):
                command.process.wait(moment_s)
            command.process.send_signal(number)
            # SIGTERM has no handler during the first imports, and needs none: there is nothing yet.
            allowed = {code} if number == signal.SIGINT else {code, -number}
            assert command.process.wait(10) in allowed, (moment_s, command.log())
        assert "Traceback" not in command.log(), moment_s
        assert_nothing_left(home, socket_root, before)


@pytest.mark.parametrize("file", ["lock", "instance.json"], ids=["before it listens", "just announced"])
@SIGINT_OR_SIGTERM
def test_a_signal_during_the_start(home: Path, socket_root: Path, file: str, number: int, code: int) -> None:
    before = set(socket_root.glob("mlxk-*"))
    with running(home, *SERVE, "slow") as command:
        until(lambda: (home / file).exists() or command.process.poll() is not None)
        command.process.send_signal(number)
        assert command.process.wait(10) == code, command.log()
    assert "Traceback" not in command.log()
    assert_nothing_left(home, socket_root, before)


def test_two_ctrl_c_during_the_start(home: Path, socket_root: Path) -> None:
    before = set(socket_root.glob("mlxk-*"))
    for file in ("lock", "instance.json"):
        with running(home, *SERVE, "slow") as command:
            until(lambda name=file: (home / name).exists())  # type: ignore[misc]
            command.process.send_signal(signal.SIGINT)
            press_again(command.process)
            assert command.process.wait(10) == INTERRUPTED, command.log()
        assert "Traceback" not in command.log()
        assert_nothing_left(home, socket_root, before)
        (home / "lock").unlink()


def test_ctrl_c_of_a_verb_is_quiet_however_early_it_comes(home: Path) -> None:
    for moment_s in (0.0, 0.02, 0.05, 0.1):
        with running(home, "run", "a", "-", program=["-c", ENTRY]) as command:
            command.await_first_line()
            with contextlib.suppress(subprocess.TimeoutExpired):
                command.process.wait(moment_s)
            command.process.send_signal(signal.SIGINT)
            # The input is empty, so it may have ended with that message already.
            assert command.process.wait(10) in (INTERRUPTED, 2), (moment_s, command.log())
        assert "Traceback" not in command.log(), moment_s


def test_ctrl_c_while_a_verb_makes_its_classes(home: Path) -> None:
    """Python 3.11 makes a RuntimeError of what is raised there."""
    with running(home, "run", "a", "hello", program=["-c", PRESSED_WHILE_CLASSES_ARE_MADE]) as command:
        assert command.process.wait(30) == INTERRUPTED, command.log()
    assert command.log() == ""


# ------------------------------------------------------------------------- detached


def detach(home: Path, *models: str) -> Instance:
    with running(home, *SERVE, "--detach", *models) as command:
        assert command.process.wait(60) == 0, command.log()
    return read_instance_of(home)


def read_instance_of(home: Path) -> Instance:
    facts = json.loads((home / "instance.json").read_text())
    return Instance(facts["pid"], facts["created_at"], facts["control"], facts["url"], "", ())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_to_a_detached_server_ends_it_in_order(home: Path, socket_root: Path, number: int) -> None:
    before = set(socket_root.glob("mlxk-*"))
    server = detach(home, "a")
    assert os.getsid(server.pid) == server.pid  # the terminal's own Ctrl-C and SIGHUP do not reach it
    workers = [child.pid for child in psutil.Process(server.pid).children()]
    os.kill(server.pid, number)
    assert wait_gone([server.pid, *workers], 10) == []
    assert_nothing_left(home, socket_root, before)


def test_ctrl_c_of_a_detach_that_still_waits_ends_the_server(home: Path, socket_root: Path) -> None:
    before = set(socket_root.glob("mlxk-*"))
    with running(home, *SERVE, "--detach", "slow") as command:
        until((home / "lock").exists)
        servers = psutil.Process(command.process.pid).children()
        command.process.send_signal(signal.SIGINT)
        assert command.process.wait(20) == INTERRUPTED, command.log()
        assert "Traceback" not in command.log()
    assert wait_gone([server.pid for server in servers], 5) == []
    assert_nothing_left(home, socket_root, before)


# -------------------------------------------------------------------------- private


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_the_private_server_of_a_run_ends_with_it(
    home: Path, socket_root: Path, number: int, code: int
) -> None:
    """However the command ends: the server sees the end of its stdin."""
    before = set(socket_root.glob("mlxk-*"))
    with running(home, "run", "a", "go", "--max-tokens", "1000000") as command:
        until(lambda: "w5" in command.log())
        family = [child.pid for child in psutil.Process(command.process.pid).children(recursive=True)]
        assert len(family) == 2  # the server and its worker
        command.process.send_signal(number)
        assert command.process.wait(20) == code
        assert "Traceback" not in command.log()
    assert wait_gone(family, 10) == []
    until(lambda: set(socket_root.glob("mlxk-*")) <= before)


# ------------------------------------------------------------------ refused starts


def test_a_start_that_is_refused_ends_at_once_and_leaves_nothing(home: Path, socket_root: Path) -> None:
    """Not loopback, and no key: found when the sockets are there already."""
    before = set(socket_root.glob("mlxk-*"))
    env = {**os.environ, "MLXK_HOME": str(home), "MLXK_ENGINE": "fake"}
    command = [sys.executable, "-P", "-m", "mlxk", "serve", "--host", "0.0.0.0", "--port", "0"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert set(socket_root.glob("mlxk-*")) <= before


def test_a_taken_port_is_a_clear_error(home: Path, start: StartServer) -> None:
    server = start()
    port = server.url.rpartition(":")[2]
    env = {**server.env, "MLXK_HOME": str(home / "other")}
    command = [sys.executable, "-P", "-m", "mlxk", "serve", "--port", port]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 1
    assert port in result.stderr
    assert "--port" in result.stderr
    assert "Traceback" not in result.stderr
