"""What keeps a server from starting or writing: a sentence that says what to do, and nothing half done."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.process.boxes import MLXK, environment, in_box, mlxk
from tests.process.client import Request
from tests.process.conftest import StartServer
from tests.process.watch import run_dir, until
from tests.server import Server, add_fake_model

FULL_DISK = 'mount -t tmpfs -o size=64k none "$1"; head -c 1M /dev/zero > "$1/fill" 2>/dev/null || true; '
READ_ONLY = 'mount -t tmpfs -o ro none "$1"; '
RUN = 'shift; "$@" || echo "rc $?"; '
LIST = 'ls -A "$MLXK_HOME"'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def assert_clear(result: subprocess.CompletedProcess[str], *words: str) -> None:
    said = result.stdout + result.stderr
    assert "Traceback" not in said, said
    for word in words:
        assert word in said, said


# ------------------------------------------------------------------------ a full disk


def test_on_a_full_disk_the_server_says_so_and_leaves_no_half_file(home: Path) -> None:
    result = in_box(FULL_DISK + RUN + LIST, home, *MLXK, "serve", env=environment(home))
    assert_clear(result, "rc 1", "instance.json cannot be written (No space left on device)")
    assert result.stdout.split("rc 1")[1].split() == ["fill", "lock"]


def test_a_detached_start_on_a_full_disk_has_the_reason_that_its_log_could_not_take(home: Path) -> None:
    command = [*MLXK, "serve", "--detach", "--json"]
    result = in_box(FULL_DISK + RUN, home, *command, env=environment(home))
    assert_clear(result, "rc 1")
    error = json.loads(result.stdout.splitlines()[0])["error"]
    assert error["type"] == "start_failed"
    assert "No space left on device" in error["message"]


def test_a_variable_that_sets_nothing_is_a_warning_and_no_error(start: StartServer) -> None:
    server = start(drain_timeout_s="3", fake_x="1")
    (warning,) = [line for line in server.log().splitlines() if "sets nothing" in line]
    assert "WARNING" in warning
    assert warning.endswith("MLXK_DRAIN_TIMEOUT_S sets nothing; did you mean MLXK_DRAIN_TIMEOUT?")
    assert warning in (server.home / "logs" / "server.log").read_text()


def test_a_detached_start_says_it_too(home: Path) -> None:
    result = mlxk("serve", "--detach", env=environment(home, apikey="sesame"))
    assert result.returncode == 0, result.stderr
    assert mlxk("stop", env=environment(home)).returncode == 0
    assert result.stderr == "warning: the variable MLXK_APIKEY sets nothing; did you mean MLXK_API_KEY?\n"
    assert "the server ends: `mlxk stop`\n" in (home / "logs" / "server.log").read_text()


def test_a_disk_that_fills_while_the_server_runs_stops_nothing(tmp_path: Path, start: StartServer) -> None:
    """Every write to a file fails from now on, in the server and in the workers that it starts."""
    add_fake_model(tmp_path, "a", flood_log_lines=2000)
    add_fake_model(tmp_path, "crashing", crash_at_step=1)
    server = start()
    if not hasattr(resource, "prlimit"):
        pytest.skip("no way to limit another process here")
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, 0))
    with Request(server, "a") as request:
        assert request.text() == "w0 w1 w2 w3"
    with Request(server, "crashing") as request:
        assert "died" in request.error()["message"]
    assert server.ps()["a"]["state"] == "ready"
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "logs").glob("*")}
    sizes.pop("server.log", None)  # has the line of the start, if that was written before the disk was full
    assert sum(sizes.values()) == 0, sizes
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not (tmp_path / "instance.json").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_that_nobody_can_take_stops_nothing(home: Path, stream: str) -> None:
    env = environment(home)
    with open("/dev/full", "wb") as full:
        outputs = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: full}
        process = subprocess.Popen([*MLXK, "serve"], env=env, stdin=subprocess.DEVNULL, **outputs)
    try:
        until((home / "instance.json").exists)
        assert mlxk("ps", env=env).returncode == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_an_error_that_cannot_be_written_still_has_its_exit_code(home: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*MLXK, "ps"], env=environment(home), stdout=full, stderr=full, check=False)
    assert done.returncode == 3


# ---------------------------------------------------------------------------- the home


def test_a_read_only_home_is_refused_with_what_to_do(home: Path) -> None:
    result = in_box(READ_ONLY + RUN, home, *MLXK, "serve", env=environment(home))
    assert_clear(result, "rc 1", f"{home} cannot be written (Read-only file system)", "Set MLXK_HOME")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_home_of_another_user_is_refused(home: Path) -> None:
    os.chown(home, 12345, 12345)
    home.chmod(0o755)
    # In the namespace there is no such user, so that not even root may write there.
    result = in_box('"$@" || echo "rc $?"', *MLXK, "serve", env=environment(home))
    assert_clear(result, "rc 1", f"{home} cannot be written (Permission denied)", "Set MLXK_HOME")


@pytest.mark.parametrize("arguments", [("serve",), ("serve", "--detach")])
def test_a_file_in_the_way_of_the_home_is_named(home: Path, arguments: tuple[str, ...]) -> None:
    blocked = home / "file"
    blocked.touch()
    result = mlxk(*arguments, env=environment(blocked / "home"))
    assert result.returncode == 1
    assert_clear(result, str(blocked), "cannot be written (Not a directory)", "MLXK_HOME")
    result = mlxk(*arguments, "--json", env=environment(blocked / "home"))
    assert json.loads(result.stdout)["error"]["type"] == "start_failed"


def test_a_user_without_a_home_is_told_to_set_one(home: Path) -> None:
    env = environment(home)
    del env["MLXK_HOME"]
    env.pop("HOME", None)
    # A user id without a name, as in a container: Python finds no home in the user data base either.
    script = "import os, pwd; pwd.getpwuid = lambda uid: {}[uid]; from mlxk.cli.main import invoke; "
    for verb in ("serve", "ps", "stop"):
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"{script} raise SystemExit(invoke([{verb!r}]))"],
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1, done
        assert_clear(done, "set MLXK_HOME")


# ---------------------------------------------------------------- the run directory


def test_long_and_unwritable_places_for_sockets_are_passed_over(
    tmp_path: Path, start: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setenv("TMPDIR", str(deep))
    server = start()
    assert run_dir(server).parent == Path("/tmp")
    assert server.call("ping")["ready"]


# ------------------------------------------------------------------- the instance file


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\x00\xff\xfe", b"[1, 2]", b'{"pid": 1, "created_at": 5.0}'],
    ids=["empty", "cut off", "binary", "foreign", "another version's"],
)
def test_an_instance_file_that_says_nothing_is_no_obstacle(
    tmp_path: Path, start: StartServer, content: bytes
) -> None:
    (tmp_path / "instance.json").write_bytes(content)
    env = environment(tmp_path)
    assert mlxk("ps", env=env).returncode == 3
    assert mlxk("stop", env=env).returncode == 0
    server = start()
    assert server.cli("ps").returncode == 0
    assert json.loads((tmp_path / "instance.json").read_text())["pid"] == server.pid


def test_a_folder_in_place_of_the_instance_file_is_named(home: Path) -> None:
    (home / "instance.json" / "x").mkdir(parents=True)
    result = mlxk("serve", env=environment(home))
    assert result.returncode == 1
    assert_clear(result, f"{home}/instance.json cannot be written")
    assert sorted(path.name for path in home.iterdir()) == ["instance.json", "lock"]


def test_a_server_whose_instance_file_was_lost_is_named_by_its_pid(start: StartServer) -> None:
    server = start()
    (server.home / "instance.json").unlink()
    result = mlxk("serve", env=server.env)
    assert result.returncode == 1
    assert_clear(result, f"pid {server.pid}", f"kill {server.pid}")


# -------------------------------------------------------------------- the configuration


@pytest.mark.parametrize("arguments", [("serve",), ("serve", "--detach"), ("list",)])
@pytest.mark.parametrize(
    ("content", "word"),
    [(b"\x00\xff\xfe\x80", "not UTF-8"), (b"\x00", "not valid TOML"), (b"[server]\nprot = 1\n", "line 2")],
    ids=["binary", "zero bytes", "unknown key"],
)
def test_a_configuration_that_cannot_be_read_is_named(
    home: Path, arguments: tuple[str, ...], content: bytes, word: str
) -> None:
    (home / "config.toml").write_bytes(content)
    result = mlxk(*arguments, "--json", env=environment(home))
    assert result.returncode == 1
    assert_clear(result)
    error = json.loads(result.stdout)["error"]
    assert error["type"] == "config_error"
    assert str(home / "config.toml") in error["message"]
    assert word in error["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_configuration_that_may_not_be_read_is_not_ignored(home: Path) -> None:
    config = home / "config.toml"
    config.write_text("")
    config.chmod(0o600)
    os.chown(config, 12345, 12345)
    result = in_box('"$@" || echo "rc $?"', *MLXK, "serve", env=environment(home))
    assert_clear(result, "rc 1", f"{config}: cannot be read: Permission denied")


# ----------------------------------------------------------------------------- a port


@pytest.mark.parametrize("detached", [False, True])
def test_a_port_that_is_taken_is_named_in_an_envelope(start: StartServer, home: Path, detached: bool) -> None:
    other: Server = start()
    port = other.url.rpartition(":")[2]
    arguments = ["serve", "--json", "--port", port, *(["--detach"] if detached else [])]
    result = mlxk(*arguments, env=environment(home))
    assert result.returncode == 1
    error = json.loads(result.stdout)["error"]
    assert error["type"] == "start_failed"
    assert f"Port {port}" in error["message"]
    assert "--port N" in error["message"]
    assert psutil.pid_exists(other.pid)
