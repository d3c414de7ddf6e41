"""SIGHUP and `mlxk reload`: only what has changed is touched, and wrong settings change nothing."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mlxk.supervisor.control_client import ControlError
from tests.process.client import Request
from tests.process.conftest import StartServer
from tests.process.watch import pid_of, until
from tests.server import Server, add_fake_model, add_tiny_copy, is_alive, standing

PLAIN = """
[server]
keep_alive = "1h"
drain_timeout = "20s"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("home")
    for name in ("a", "b", "other"):
        add_fake_model(home, name, step_s=0.01)
    (home / "config.toml").write_text(PLAIN)
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0"}
    with standing(Server(home, env=env)) as running:
        yield running


@pytest.fixture(autouse=True)
def plain_again(server: Server) -> Iterator[None]:
    yield
    configure(server, "")
    server.call("reload")
    server.call("stop", {"models": [], "all": True})


def configure(server: Server, more: str) -> None:
    (server.home / "config.toml").write_text(PLAIN + more)


def loaded(server: Server, *names: str) -> list[int]:
    server.call("load", {"models": list(names)})
    return [pid_of(server, name) for name in names]


def test_a_reload_touches_only_what_changed_and_cuts_no_stream(server: Server) -> None:
    pid_a, pid_b = loaded(server, "a", "b")
    with (
        Request(server, "a", words=100, stream=True) as a,
        Request(server, "b", words=100, stream=True) as b,
    ):
        a.next_event()
        b.next_event()
        configure(server, "[models.a]\ncontext_length = 2048\n[models.b]\npinned = true\n")
        result = server.cli("reload")
        assert result.returncode == 0, result.stderr
        assert "restarted, if they run: a\n" in result.stdout
        for stream in (a, b):
            assert stream.last_event()["choices"][0]["finish_reason"] == "length"
    server.wait_for(lambda models: models["a"]["pid"] not in (None, pid_a))
    assert pid_of(server, "b") == pid_b
    assert server.ps()["b"]["pinned"]
    until(lambda: not is_alive(pid_a))


def test_a_models_environment_is_its_workers_and_changes_with_a_new_process(server: Server) -> None:
    (plain,) = loaded(server, "a")
    assert "MODEL_A" not in environment_of(plain)
    configure(server, '[models.a]\nenvironment = { MODEL_A = "one" }\n')
    assert server.call("reload")["models_to_restart"] == ["a"]
    server.wait_for(lambda models: models["a"]["pid"] not in (None, plain))
    assert environment_of(pid_of(server, "a"))["MODEL_A"] == "one"
    (other,) = loaded(server, "b")
    assert "MODEL_A" not in environment_of(other)


def test_defaults_of_requests_change_with_the_next_request_and_no_process(server: Server) -> None:
    (pid,) = loaded(server, "a")
    assert words_of(server, "a") == 16  # the fake engine's own default
    configure(server, "[models.a]\nmax_tokens = 3\ntemperature = 0.5\nmax_batch = 64\n")
    changes = server.call("reload")
    assert changes["models"] == ["a"]
    assert words_of(server, "a") == 3
    configure(server, "[models.a]\nmax_tokens = 4\nmax_batch = 64\n")
    assert server.call("reload")["models_to_restart"] == []
    assert words_of(server, "a") == 4
    server.wait_for(lambda models: models["a"]["pid"] not in (None, pid))  # max_batch was new


def test_a_models_cache_waits_for_its_next_load(server: Server) -> None:
    (pid,) = loaded(server, "a")
    configure(server, '[models.a]\ncache = "1MB"\n')
    changes = server.call("reload")
    assert (changes["next_load"], changes["models_to_restart"]) == (["cache of a"], [])
    assert pid_of(server, "a") == pid


def test_config_says_where_the_server_differs_and_what_brings_it_into_effect(server: Server) -> None:
    same = json.loads(server.cli("config", "--json").stdout)["data"]
    assert [one["key"] for one in same["server"]["differs"]] == ["port"]  # --port 0 is a flag of its own
    assert same["server"]["differs"][0]["remedy"] is None
    assert same["server"]["models"] == []
    configure(server, "no_auth = true\nmax_wait = '7s'\nmax_batch = 3\n[models.a]\npinned = true\n")
    data = json.loads(server.cli("config", "--json").stdout)["data"]
    remedies = {one["key"]: one["remedy"] for one in data["server"]["differs"]}
    assert remedies == {
        "port": None,
        "no_auth": "mlxk restart",
        "max_wait": "mlxk reload",
        "max_batch": "mlxk reload",
    }
    assert data["server"]["models"] == ["a"]
    text = server.cli("config").stdout
    assert f"the running server (pid {server.pid}, {server.url}) goes by other settings:" in text
    assert "after `mlxk reload` the server has new settings for: a" in text
    server.call("reload")
    after = json.loads(server.cli("config", "--json").stdout)["data"]["server"]
    assert [one["key"] for one in after["differs"]] == ["port", "no_auth"]
    assert after["models"] == []


def test_what_was_set_when_the_server_was_started_stays_its_own(start: StartServer) -> None:
    other = start("--set", "max_wait=7s", "--set", "cors_origins=http://a:1,http://b:2")
    told = other.call("config")["settings"]
    assert (told["max_wait_s"]["value"], told["max_wait_s"]["source"]) == (7.0, "flag")
    assert told["cors_origins"]["value"] == ["http://a:1", "http://b:2"]
    (other.home / "config.toml").write_text("[server]\nmax_wait = '9s'\n")
    other.call("reload")
    differs = json.loads(other.cli("config", "--json").stdout)["data"]["server"]["differs"]
    found = {one["key"]: (one["server_value"], one["value"], one["remedy"]) for one in differs}
    assert found["max_wait"] == (7.0, 9.0, None)


def test_an_unchanged_configuration_changes_nothing(server: Server) -> None:
    (pid,) = loaded(server, "a")
    assert server.cli("reload").stdout == "nothing has changed\n"
    assert pid_of(server, "a") == pid


def test_a_wrong_configuration_is_told_and_the_old_one_stays(server: Server) -> None:
    loaded(server, "a")
    configure(server, "[models.a]\npinnd = true\nmax_batch = 0\n")
    with pytest.raises(ControlError, match=r"config\.toml.*pinned"):
        server.call("reload")
    result = server.cli("reload", "--json")
    assert result.returncode == 1
    envelope = json.loads(result.stdout)
    assert envelope["status"] == "error"
    assert [one["key"] for one in envelope["error"]["mistakes"]] == ["pinnd", "max_batch"]
    assert server.ps()["a"]["state"] == "ready"
    assert 3500 < server.ps()["a"]["until"] <= 3600


def test_sighup_reloads(server: Server) -> None:
    (pid,) = loaded(server, "a")
    configure(server, "[models.a]\npinned = true\n")
    server.signal(signal.SIGHUP)
    server.wait_for(lambda models: models["a"]["pinned"])
    assert pid_of(server, "a") == pid


def test_sighup_with_a_wrong_file_is_logged_and_nothing_else(server: Server) -> None:
    configure(server, "[models.a\n")
    before = server.log().count("was not reloaded")
    server.signal(signal.SIGHUP)
    until(lambda: server.log().count("was not reloaded") > before)
    loaded(server, "a")


def test_a_keep_alive_takes_effect_on_what_is_idle(server: Server) -> None:
    loaded(server, "a")
    (server.home / "config.toml").write_text(PLAIN.replace("1h", "100ms"))
    server.call("reload")
    server.wait_for(lambda models: "a" not in models)


def test_an_alias_that_moves_is_served_from_its_new_place_and_one_that_goes_is_let_go(server: Server) -> None:
    folders = {name: add_tiny_copy(server.home / name, name) for name in ("one", "two")}
    configure(server, f'[models.pet]\npath = "{folders["one"]}"\n')
    server.call("reload")
    (old,) = loaded(server, "pet")
    configure(server, f'[models.pet]\npath = "{folders["two"]}"\n')
    server.call("reload")
    server.wait_for(lambda models: models["pet"]["pid"] not in (None, old))
    until(lambda: not is_alive(old))
    configure(server, "")
    server.call("reload")
    server.wait_for(lambda models: "pet" not in models)


def test_what_is_marked_for_preload_is_loaded(server: Server) -> None:
    configure(server, "[models.other]\npreload = true\n")
    server.call("reload")
    server.wait_for(lambda models: models.get("other", {}).get("state") == "ready")


def test_api_keys_change_without_a_restart(server: Server) -> None:
    keys = server.home / "keys"
    keys.write_text("secret")
    more = f'api_key_file = "{keys}"\n'
    configure(server, more)
    server.call("reload")
    assert status_of(server) == 401
    assert status_of(server, "secret") == 200
    keys.write_text("changed")
    server.call("reload")
    assert status_of(server, "secret") == 401
    assert status_of(server, "changed") == 200
    keys.unlink()
    with pytest.raises(ControlError, match="api_key_file"):
        server.call("reload")
    assert status_of(server) == 401


def test_what_needs_a_restart_is_named(server: Server) -> None:
    configure(server, "no_auth = true\n")
    assert "only after `mlxk restart`: no_auth" in server.cli("reload").stdout


def status_of(server: Server, key: str | None = None) -> int:
    request = urllib.request.Request(f"{server.url}/v1/models")
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def environment_of(pid: int) -> dict[str, str]:
    return psutil.Process(pid).environ()


def words_of(server: Server, model: str) -> int:
    """Tokens of a reply to a request that asks for no number of them."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return int(json.load(answer)["usage"]["completion_tokens"])
