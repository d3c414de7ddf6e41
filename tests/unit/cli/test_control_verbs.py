"""`ps`, `load`, `stop` and `restart` against a control socket that plays its part, and without any."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NoReturn

import click
import pytest

from mlxk.cli import control
from mlxk.cli.errors import CliError
from mlxk.cli.ps import HEAD, format_pool
from mlxk.cli.server_process import Ready
from mlxk.config.instance import read_recorded, write_instance
from mlxk.supervisor.control_protocol import ControlFault
from tests.unit.cli.control_stub import control_stub

MODEL: dict[str, Any] = {
    "name": "tiny",
    "id": "0123456789ab",
    "state": "ready",
    "pid": 4711,
    "worker": "w1",
    "size_bytes": 1_800_000,
    "memory_bytes": 52_000_000,
    "cache": {"entries": 2, "bytes": 3_400_000, "hits": 1, "misses": 1, "reused_tokens": 10},
    "in_flight": 2,
    "queued": 3,
    "tokens_per_s": 812.4,
    "until": 593.2,
    "uptime_s": 70.0,
    "load_progress": None,
    "restarts": 1,
    "crashes": 0,
    "pinned": False,
    "last_error": "the worker died\nhere",
}
POOL = {
    "server": {
        "pid": 1,
        "url": "http://127.0.0.1:8000",
        "version": "0.1.0",
        "uptime_s": 5.0,
        "memory_limit_bytes": 10**9,
        "memory_bytes": 10**8,
        "spare": None,
    },
    "models": [MODEL],
}


@pytest.fixture
def mlxk_with(mlxk_here, running_instance):
    """Runs a verb against a control socket with these answers; returns the result and what was asked."""

    def run(*arguments: str, answer: Any, pid: int | None = None, deaf: bool = False):
        with control_stub(answer if callable(answer) else lambda request: answer, deaf=deaf) as stub:
            running_instance(control=stub.path, pid=pid)
            return mlxk_here(*arguments), stub.seen

    return run


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the server's."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


# ------------------------------------------------------------------------------- ps


def test_ps_shows_a_row_per_model(mlxk_with):
    result, _ = mlxk_with("ps", answer=POOL)
    head, row = result.out.splitlines()
    assert tuple(head.split()) == HEAD
    assert row.split() == "tiny 0123456789ab ready 1.8 MB 52.0 MB 3.4 MB 2+3 812 9m".split()  # noqa: SIM905


def test_ps_wide_shows_more_on_one_line(mlxk_with):
    head, row = mlxk_with("ps", "--wide", answer=POOL)[0].out.splitlines()
    assert head.endswith("PID  UPTIME  RESTARTS  LAST ERROR")
    assert row.split()[-7:] == ["4711", "1m", "1", "the", "worker", "died", "here"]


def test_ps_as_json_is_the_servers_data(mlxk_with):
    result, _ = mlxk_with("ps", "--json", answer=POOL)
    assert result.envelope["command"] == "ps"
    assert result.data == POOL


@pytest.mark.parametrize("pool", [{"server": {}, "models": []}, {}])
def test_an_empty_pool_is_only_the_header(pool):
    assert tuple(format_pool(pool, wide=False).split()) == HEAD


@pytest.mark.parametrize(("until", "shown"), [(-1.0, "forever"), (None, "-"), (0.0, "0s"), (59.9, "59s")])
def test_until(until, shown):
    pool = {"models": [{**MODEL, "until": until}]}
    assert format_pool(pool, wide=False).split()[-1] == shown


def test_a_model_of_which_little_is_known_has_a_full_row():
    row = format_pool({"models": [{"name": "x", "state": "loading"}]}, wide=True).splitlines()[1]
    assert row.split() == ["x", "-", "loading", "-", "-", "-", "0", "-", "-", "-", "-", "0", "-"]


@pytest.mark.parametrize("verb", [("ps",), ("load", "tiny"), ("restart", "tiny"), ("restart",)])
def test_without_a_server_the_exit_code_is_3_and_says_how_to_start_one(verb, mlxk_here):
    result = mlxk_here(*verb)
    assert (result.code, result.out) == (3, "")
    assert "mlxk serve" in result.err
    assert mlxk_here(*verb, "--json").error["type"] == "server_not_running"


def test_a_server_that_does_not_answer_is_exit_5(mlxk_with, monkeypatch):
    monkeypatch.setattr("mlxk.cli.ps.ANSWER_LIMIT_S", 0.3)
    assert mlxk_with("ps", answer=None, deaf=True)[0].code == 5


def test_a_stuck_server_is_reported_before_a_long_wait_begins(mlxk_with, monkeypatch):
    monkeypatch.setattr(control, "ANSWER_LIMIT_S", 0.3)
    for verb in (("stop",), ("load", "tiny"), ("stop", "tiny")):
        result, seen = mlxk_with(*verb, answer={}, deaf=True)
        assert result.code == 5
        assert f"kill -9 {os.getpid()}" in result.err
        assert seen == []


# ------------------------------------------------------------------- load and restart


def test_load_says_what_it_took(mlxk_with):
    models = [
        {"name": "tiny", "load_s": 0.42, "memory_bytes": 52_000_000, "already_loaded": False},
        {"name": "other", "load_s": 0.0, "memory_bytes": 1, "already_loaded": True},
    ]
    result, seen = mlxk_with("load", "tiny", "other", answer={"models": models})
    assert result.out == "tiny: loaded in 0.4 s, 52.0 MB\nother: already loaded\n"
    assert seen == [("load", {"models": ["tiny", "other"]})]


@pytest.mark.parametrize(
    ("type", "code"),
    [("model_not_found", 4), ("ambiguous_model", 4), ("insufficient_memory", 6), ("deadline_exceeded", 5)],
)
def test_a_fault_of_the_server_becomes_an_exit_code(type, code, mlxk_with):
    fault = ControlFault(type, "no", {"nearest": ["tiny"]})
    result, _ = mlxk_with("load", "tny", "--json", answer=fault)
    assert result.code == code
    assert result.error == {"type": type, "message": "no", "nearest": ["tiny"]}


def test_restart_of_a_model(mlxk_with):
    model = {"name": "tiny", "took_s": 0.42, "seamless": True}
    result, seen = mlxk_with("restart", "tiny", answer={"models": [model]})
    assert (result.code, result.out) == (0, "restarted tiny in 0.4 s\n")
    assert seen == [("restart", {"models": ["tiny"], "now": False, "timeout_s": None})]


def test_restart_of_a_model_tells_scripts_that_the_server_stayed(mlxk_with):
    model = {"name": "tiny", "load_s": 0.4, "took_s": 0.42, "freed_bytes": 9, "seamless": True}
    result, _ = mlxk_with("restart", "tiny", "--json", answer={"models": [model]})
    assert result.data == {"models": [model], "server": None}


def test_restart_says_when_there_was_no_room_for_two(mlxk_with):
    answer = {"models": [{"name": "tiny", "took_s": 2, "seamless": False, "freed_bytes": 100}]}
    result, seen = mlxk_with("restart", "--timeout", "5", "tiny", answer=answer)
    assert result.out == "restarted tiny in 2.0 s (no room for two processes: requests had to wait)\n"
    assert seen[0][1]["timeout_s"] == 5


def test_restart_of_what_did_not_run_says_so(mlxk_with):
    answer = {"models": [{"name": "tiny", "took_s": 2, "seamless": False, "freed_bytes": 0}]}
    assert mlxk_with("restart", "tiny", answer=answer)[0].out == "tiny was not running; loaded in 2.0 s\n"


def test_restart_of_the_server_waits_for_its_new_control_socket(mlxk_with, bystander):
    def begin_anew(request: Any) -> dict[str, Any]:
        old = read_recorded()
        assert old is not None
        write_instance(replace(old, control="/somewhere/new"))
        return {"models": [], "server": True}

    result, seen = mlxk_with("restart", "--json", answer=begin_anew, pid=bystander.pid)
    assert result.data["server"]["pid"] == bystander.pid
    assert seen[-1] == ("restart", {"models": [], "now": False, "timeout_s": None})


def test_restart_of_a_server_that_does_not_come_back_says_where_to_look(mlxk_with, bystander):
    def end(request: Any) -> dict[str, Any]:
        bystander.kill()
        return {"models": [], "server": True}

    result, _ = mlxk_with("restart", answer=end, pid=bystander.pid)
    assert result.code == 1
    assert "did not come back" in result.err
    assert "mlxk serve" in result.err


# ----------------------------------------------------------------------------- stop


def test_stop_of_a_model_says_what_it_freed(mlxk_with):
    models = [
        {"name": "tiny", "stopped": True, "freed_bytes": 52_000_000},
        {"name": "other", "stopped": False, "freed_bytes": 0},
    ]
    answer = {"models": models, "server": False}
    result, seen = mlxk_with("stop", "tiny", "other", "--timeout", "1m", "--now", answer=answer)
    assert (result.code, result.out) == (0, "stopped tiny, freed 52.0 MB\nother was not running\n")
    assert seen == [("stop", {"models": ["tiny", "other"], "all": False, "now": True, "timeout_s": 60.0})]


def test_stop_all_asks_for_all(mlxk_with):
    result, seen = mlxk_with("stop", "--all", answer={"models": [], "server": False})
    assert (result.code, result.out) == (0, "no model is loaded\n")
    assert seen[0][1]["all"] is True


def test_stop_returns_when_the_server_is_gone(mlxk_with, bystander):
    def end(request: Any) -> dict[str, Any]:
        bystander.stdin.close()  # it takes a moment from here to its end
        return {"models": [], "server": True}

    result, _ = mlxk_with("stop", answer=end, pid=bystander.pid)
    assert (result.code, result.out) == (0, "stopped the server\n")
    assert bystander.wait(0) == 0


def test_a_server_that_dies_instead_of_answering_is_stopped(mlxk_with, bystander):
    def die(request: Any) -> None:
        bystander.kill()

    result, _ = mlxk_with("stop", "--json", answer=die, pid=bystander.pid)
    assert result.data == {"models": [], "server": True}


def test_stop_with_a_limit_is_exit_5_while_the_server_still_runs(mlxk_with, bystander):
    answer = {"models": [], "server": True}
    result, _ = mlxk_with("stop", "--timeout", "0.3", answer=answer, pid=bystander.pid)
    assert (result.code, result.out) == (5, "")
    assert "--now" in result.err
    assert bystander.poll() is None


def test_stop_of_a_model_past_its_limit_is_exit_5(mlxk_with, monkeypatch):
    monkeypatch.setattr("mlxk.cli.stop.ANSWER_GRACE_S", 0.1)
    assert mlxk_with("stop", "tiny", "--timeout", "0.1", answer=None)[0].code == 5


def test_a_server_that_dies_while_a_model_is_stopped_has_stopped_it(mlxk_with, bystander):
    def die(request: Any) -> None:
        bystander.kill()

    result, _ = mlxk_with("stop", "tiny", answer=die, pid=bystander.pid)
    assert (result.code, result.out) == (0, "tiny was not running\n")


@pytest.mark.parametrize("arguments", [(), ("--all",), ("tiny",), ("tiny", "--now", "--timeout", "5")])
def test_stopping_without_a_server_is_a_success(arguments, mlxk_here):
    assert mlxk_here("stop", *arguments).code == 0
    data = mlxk_here("stop", *arguments, "--json").data
    assert data["server"] is False
    assert not any(model["stopped"] for model in data["models"])


def test_stopping_an_unknown_model_without_a_server_is_exit_4(mlxk_here):
    result = mlxk_here("stop", "tiny", "no-such-model", "--json")
    assert result.code == 4
    assert result.error["type"] == "model_not_found"


def test_names_and_all_together_are_a_usage_error(mlxk_here):
    assert mlxk_here("stop", "--all", "tiny").code == 2


# ---------------------------------------------------------------------------- serve


def test_a_second_server_is_refused_with_the_first_ones_address(mlxk_here, running_instance):
    running_instance(url="http://127.0.0.1:8123")
    for arguments in (("serve",), ("serve", "--detach")):
        result = mlxk_here(*arguments, "--json")
        assert result.code == 1
        assert result.error["type"] == "already_running"
        assert result.error["url"] == "http://127.0.0.1:8123"


def test_serve_with_an_unknown_model_starts_nothing(mlxk_here, home):
    assert mlxk_here("serve", "--detach", "no-such-model").code == 4
    assert not (home / "logs").exists()


def test_serve_with_a_wrong_configuration_names_the_file(mlxk_here, tmp_path):
    (tmp_path / "wrong.toml").write_text("[server]\nprot = 1\n")
    result = mlxk_here("serve", "--detach", "--config", str(tmp_path / "wrong.toml"))
    assert result.code == 1
    assert "wrong.toml" in result.err
    assert "port" in result.err


def test_detach_hands_its_options_on(mlxk_here, monkeypatch, tmp_path):
    started: list[list[str]] = []

    def start(arguments: list[str]) -> Ready:
        started.append(arguments)
        return Ready(pid=99, url="http://127.0.0.1:8123")

    monkeypatch.setattr("mlxk.cli.server_process.start_detached", start)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").write_text("secret")
    options = ["--host=127.0.0.1", "--port=0", "--max-memory=2 GB", "--keep-alive=-1", "--log-json"]
    result = mlxk_here("serve", "--detach", "--api-key-file", "keys", *options, "tiny")
    assert (result.code, result.out) == (0, "server running: pid 99, http://127.0.0.1:8123\n")
    [arguments] = started
    assert arguments[-2:] == ["--", "tiny"]
    assert sorted(arguments[:-2]) == sorted([*options, f"--api-key-file={tmp_path}/keys"])
    facts = {"pid": 99, "url": "http://127.0.0.1:8123", "not_preloaded": []}
    assert mlxk_here("serve", "--detach", "--json").data == facts


@pytest.fixture
def served(monkeypatch):
    """Stands for the server: notes what it was started with."""
    calls: list[dict[str, Any]] = []

    def run_server(settings: Any, **options: Any) -> int:
        calls.append({"settings": settings, **options})
        return 130

    def leave(code: int) -> NoReturn:
        raise click.exceptions.Exit(code)  # not of this process

    monkeypatch.setattr("mlxk.supervisor.lifecycle.run_server", run_server)
    monkeypatch.setattr("mlxk.cli.serve._leave", leave)
    return calls


def test_serve_in_the_foreground_exits_as_the_server_does(mlxk_here, served, monkeypatch):
    monkeypatch.setattr("mlxk.config.logs.configure_logging", lambda level, json: None)
    monkeypatch.setenv("MLXK_PORT", "1234")
    assert mlxk_here("serve", "--keep-alive", "5m", "--max-models", "2", "tiny").code == 130
    [call] = served
    assert (call["private"], call["ready_fd"]) == (False, None)
    settings = call["settings"]
    assert (settings.port, settings.keep_alive_s, settings.max_models) == (1234, 300.0, 2)
    assert settings.preload == ("tiny",)
    assert settings.log_json is False


def test_a_private_server_does_not_mind_a_running_one(mlxk_here, served, running_instance, monkeypatch):
    monkeypatch.setattr("mlxk.config.logs.configure_logging", lambda level, json: None)
    running_instance()
    assert mlxk_here("serve", "--private", "--port", "0").code == 130
    assert served[0]["private"] is True


def test_a_private_server_loads_nothing_but_what_is_asked_for(mlxk_here, served, home, monkeypatch):
    monkeypatch.setattr("mlxk.config.logs.configure_logging", lambda level, json: None)
    monkeypatch.setenv("MLXK_PRELOAD", "tiny")
    home.mkdir()
    (home / "config.toml").write_text('[models."big"]\nid = "tiny"\npreload = true\n')
    mlxk_here("serve", "--private", "--port", "0")
    mlxk_here("serve", "--port", "0")
    assert [call["settings"].preloaded() for call in served] == [(), ("tiny", "big")]
    assert [call["settings"].spare for call in served] == [False, True]


def test_a_bad_key_file_is_a_message_and_no_traceback(mlxk_here, monkeypatch):
    from mlxk.config.settings import ConfigError

    def run_server(settings: Any, **options: Any) -> int:
        raise ConfigError("api_key_file x holds no key")

    monkeypatch.setattr("mlxk.supervisor.lifecycle.run_server", run_server)
    monkeypatch.setattr("mlxk.config.logs.configure_logging", lambda level, json: None)
    result = mlxk_here("serve", "--json")
    assert (result.code, result.error["type"], result.err) == (1, "config_error", "")


def test_errors_know_their_exit_codes():
    assert CliError("timed_out", "").exit_code == 5
