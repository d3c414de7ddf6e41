"""`mlxk config`: the settings, where each came from, and the file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mlxk.cli.errors import ExitCode
from mlxk.config.fields import SERVER_FIELDS
from mlxk.config.template import commented_file


def write(home: Path, text: str) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    path = home / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def entries(data):
    return {one["key"]: one for one in data["settings"]}


def test_each_setting_says_where_it_comes_from(mlxk_here, home, monkeypatch):
    path = write(home, '[server]\n# a comment\nkeep_alive = "1h"\nport = 1\n')
    monkeypatch.setenv("MLXK_PORT", "2")
    data = mlxk_here("config", "--json").data
    found = entries(data)
    assert list(found) == [one.key for one in SERVER_FIELDS]
    assert found["keep_alive"] == {
        "key": "keep_alive",
        "name": "keep_alive_s",
        "value": 3600.0,
        "written": '"1h"',
        "origin": "file",
        "place": f"{path}:3",
    }
    assert (found["port"]["value"], found["port"]["origin"], found["port"]["place"]) == (
        2,
        "variable",
        "MLXK_PORT",
    )
    assert (found["max_memory"]["value"], found["max_memory"]["origin"]) == (None, "default")
    assert data["file"] == {"path": str(path), "exists": True}
    assert data["server"] is None


def test_for_people_it_is_a_table_with_the_models(mlxk_here, home):
    path = write(home, "[server]\nport = 8123\n[models.tiny]\ntemperature = 0.5\n")
    out = mlxk_here("config").out
    lines = [line.split() for line in out.splitlines()]
    assert ["port", "8123", f"{path}:2"] in lines
    assert ["spare", "true", "default"] in lines
    assert ["temperature", "0.5", f"{path}:4"] in lines
    assert "model tiny" in out


def test_secrets_are_named_and_not_shown(mlxk_here, home, monkeypatch):
    write(home, '[models.tiny]\nenvironment = { HF_TOKEN = "geheim" }\n')
    monkeypatch.setenv("MLXK_API_KEY", "geheim")
    for words in (("config",), ("config", "--json"), ("config", "check", "--json")):
        result = mlxk_here(*words)
        assert result.code == ExitCode.OK
        assert "geheim" not in result.out + result.err
    assert mlxk_here("config", "--json").data["api_keys_from"] == ["MLXK_API_KEY"]
    assert "MLXK_API_KEY (not shown)" in mlxk_here("config").out


def test_what_means_nothing_is_a_warning(mlxk_here, home, monkeypatch):
    write(home, "[models.tny]\npinned = true\n[models.tin]\npinned = true\n")
    monkeypatch.setenv("MLXK_PRT", "1")
    warnings = "\n".join(mlxk_here("config", "--json").data["warnings"])
    assert "did you mean MLXK_PORT?" in warnings
    assert "the table of tny has no effect: no model of this name is installed" in warnings
    assert "the table of tin has no effect: the model is called tiny" in warnings
    place = f"{home / 'config.toml'}:1"
    assert f"warning: {place}: the table of tny" in mlxk_here("config", "check").err


def test_names_that_lead_to_no_model_are_warnings_with_their_line(mlxk_here, home, monkeypatch):
    path = write(
        home,
        '[server]\npreload = ["nosuch", "tiny"]\n[models.far]\npinned = true\npath = "/nonexist"\n'
        '[models.other]\nid = "absent"\n[models.tiny]\npinned = true\n',
    )
    result = mlxk_here("config", "check", "--json")
    assert result.code == ExitCode.OK
    preload, far, other = result.data["warnings"]
    assert preload.startswith(f"{path}:2: ")
    assert "nosuch" in preload
    assert far.startswith(f"{path}:5: ")
    assert "the folder /nonexist does not exist" in far
    assert other.startswith(f"{path}:7: ")
    assert "'absent', which is not installed" in other
    assert "no mistake" not in mlxk_here("config", "check").out
    monkeypatch.setenv("MLXK_PRELOAD", "gone")
    assert mlxk_here("config", "check", "--json").data["warnings"][0].startswith("MLXK_PRELOAD: ")


@pytest.mark.parametrize(
    ("written", "meant"), [('"12"', "12GB"), ("12", "12GB"), ('"16MB"', "16GB"), ('"64MB"', None)]
)
def test_a_limit_that_has_room_for_no_model_is_a_warning(mlxk_here, home, written, meant):
    path = write(home, f"[server]\nmax_memory = {written}\n")
    result = mlxk_here("config", "check", "--json")
    assert result.code == ExitCode.OK
    if meant is None:
        assert result.data["warnings"] == []
    else:
        [said] = result.data["warnings"]
        assert said.startswith(f"{path}:2: max_memory is ")
        assert said.endswith(f"did you mean {meant}?")


def test_a_mistake_is_an_error_with_its_place(mlxk_here, home):
    path = write(home, "[server]\nprot = 1\n")
    for words in (("config",), ("config", "check"), ("config", "check", str(path))):
        result = mlxk_here(*words, "--json")
        assert result.code == ExitCode.ERROR
        assert result.error["type"] == "config_error"
        assert f"{path}, line 2: [server] prot" in result.error["message"]
        assert result.envelope["command"] == " ".join(words[:2])


def test_init_says_where_it_may_not_write(mlxk_here, home):
    home.touch()
    result = mlxk_here("config", "init", "--json")
    assert (result.code, result.error["type"]) == (ExitCode.ERROR, "os_error")
    assert result.error["message"].startswith(f"{home / 'config.toml'} cannot be written (File exists); ")
    assert "MLXK_HOME" in result.error["message"]


def test_whoever_looks_for_a_set_is_told_where_the_settings_are(mlxk_here):
    result = mlxk_here("config", "set", "port", "1")
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert "`mlxk config set`" in result.err
    assert "`mlxk config path`" in result.err


def test_all_mistakes_are_told_in_one_go(mlxk_here, home, monkeypatch):
    path = write(home, "[server]\nprot = 1\nspare = 'maybe'\n")
    monkeypatch.setenv("MLXK_MAX_BATCH", "0")
    for words in (("config", "check"), ("serve",), ("serve", "--detach")):
        found = mlxk_here(*words, "--json").error["mistakes"]
        assert [(one["place"], one["line"], one["table"], one["key"]) for one in found] == [
            (f"{path}:2", 2, "server", "prot"),
            (f"{path}:3", 3, "server", "spare"),
            ("MLXK_MAX_BATCH", None, None, "max_batch"),
        ]
        assert all(one["message"] in mlxk_here(*words).err for one in found)


def test_check_looks_at_another_file(mlxk_here, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 1\n", encoding="utf-8")
    assert mlxk_here("config", "check", str(other)).out == f"{other}: no mistake found\n"
    data = mlxk_here("config", "--config", str(other), "--json").data
    assert entries(data)["port"]["place"] == f"{other}:2"
    missing = mlxk_here("config", "check", str(tmp_path / "none.toml"))
    assert (missing.code, "there is no file" in missing.err) == (ExitCode.ERROR, True)


def test_init_writes_the_commented_file_for_its_owner_alone(mlxk_here, home):
    path = home / "config.toml"
    data = mlxk_here("config", "init", "--json").data
    assert data == {"path": str(path), "written": True, "text": None}
    assert path.read_text(encoding="utf-8") == commented_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert mlxk_here("config", "check").code == ExitCode.OK


@pytest.mark.parametrize("broken_link", [False, True])
def test_init_overwrites_nothing_without_force(mlxk_here, home, broken_link):
    path = home / "config.toml"
    home.mkdir()
    if broken_link:
        path.symlink_to(home / "nowhere")
    else:
        path.write_text("mine = 1\n", encoding="utf-8")
    result = mlxk_here("config", "init", "--json")
    assert (result.code, result.error["type"]) == (ExitCode.ERROR, "file_exists")
    if broken_link:
        assert not (home / "nowhere").exists()
        return
    assert path.read_text(encoding="utf-8") == "mine = 1\n"
    assert mlxk_here("config", "init", "--force").code == ExitCode.OK
    assert path.read_text(encoding="utf-8") == commented_file()


def test_init_can_print_and_write_nothing(mlxk_here, home):
    assert mlxk_here("config", "init", "--print").out == commented_file()
    assert not home.exists()


def test_path_says_where_the_file_is_looked_for(mlxk_here, home, monkeypatch):
    assert mlxk_here("config", "path").out == f"{home / 'config.toml'}\n"
    monkeypatch.setenv("MLXK_CONFIG", "/etc/mlxk.toml")
    assert mlxk_here("config", "path", "--json").data == {"path": "/etc/mlxk.toml", "exists": False}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "max_batch"), "KEY=VALUE"),
        (("--set", "prot=1"), "KEY=VALUE"),
        (("--set", "max_batch=0"), "from 1 up"),
    ],
)
def test_serve_takes_any_setting_and_refuses_what_is_none(words, message, mlxk_here):
    result = mlxk_here("serve", *words)
    assert (result.code, message in result.err) == (ExitCode.USAGE, True)


def test_a_detached_server_is_handed_what_was_set():
    from mlxk.cli.serve import _arguments

    words = _arguments(("tiny",), {"port": "1"}, {"max_batch": "8"})
    assert words == ["--set=max_batch=8", "--port=1", "--", "tiny"]
