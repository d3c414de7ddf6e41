from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxk.config.fields import MODEL_FIELDS, SERVER_FIELDS
from mlxk.config.settings import ConfigError, ModelSettings, Settings, load_settings


def write_config(home: Path, text: str) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    path = home / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_anything_the_defaults_apply() -> None:
    settings = load_settings()
    assert dataclasses.replace(settings, sources={}) == Settings()
    assert set(settings.sources.values()) == {"default"}


def test_every_setting_can_be_set_and_has_a_source() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert {one.name for one in SERVER_FIELDS} == fields - {"models", "sources"}
    assert set(load_settings().sources) == fields - {"sources"}
    model_fields = {field.name for field in dataclasses.fields(ModelSettings)}
    assert {one.name for one in MODEL_FIELDS} == model_fields - {"name"}


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_default(
    mlxk_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(mlxk_home, '[server]\nport = 1\nhost = "1.1.1.1"\nkeep_alive = "1h"\n')
    monkeypatch.setenv("MLXK_PORT", "2")
    monkeypatch.setenv("MLXK_HOST", "2.2.2.2")
    settings = load_settings({"port": 3, "host": None})
    assert (settings.port, settings.host, settings.keep_alive_s) == (3, "2.2.2.2", 3600.0)
    assert settings.sources["port"] == "flag"
    assert settings.sources["host"] == "MLXK_HOST"
    assert settings.sources["keep_alive_s"] == "config.toml"
    assert settings.sources["max_models"] == "default"


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("MLXK_HOST", "[::1]", "host", "::1"),
        ("MLXK_PORT", "0", "port", 0),
        ("MLXK_PORT", "65535", "port", 65535),
        ("MLXK_MAX_MEMORY", "8GB", "max_memory_bytes", 8_000_000_000),
        ("MLXK_MAX_MEMORY", "auto", "max_memory_bytes", None),
        ("MLXK_MAX_MODELS", "3", "max_models", 3),
        ("MLXK_KEEP_ALIVE", "-1", "keep_alive_s", -1.0),
        ("MLXK_DRAIN_TIMEOUT", "0", "drain_timeout_s", 0.0),
        ("MLXK_CACHE", "512MiB", "cache_bytes", 512 * 1024**2),
        ("MLXK_MAX_BODY", "1MB", "max_body_bytes", 1_000_000),
        ("MLXK_CHAT_STOP_STRINGS", "[]", "chat_stop_strings", ()),
        ("MLXK_CHAT_STOP_STRINGS", r'["\nUser:", "a,b"]', "chat_stop_strings", ("\nUser:", "a,b")),
        ("MLXK_LOG_LEVEL", "DEBUG", "log_level", "debug"),
        ("MLXK_LOG_JSON", "on", "log_json", True),
        ("MLXK_NO_AUTH", "Yes", "no_auth", True),
        ("MLXK_SPARE", "0", "spare", False),
        ("MLXK_SPARE", "off", "spare", False),
        ("MLXK_SPARE", "no", "spare", False),
        ("MLXK_SPARE", "FALSE", "spare", False),
        ("MLXK_ENGINE", "fake", "engine", "fake"),
        ("MLXK_PRELOAD", "tiny, org/other", "preload", ("tiny", "org/other")),
        ("MLXK_CORS_ORIGINS", "http://a:1/,*", "cors_origins", ("http://a:1", "*")),
        (
            "MLXK_CORS_ORIGINS",
            "tauri://localhost,moz-extension://*",
            "cors_origins",
            ("tauri://localhost", "moz-extension://*"),
        ),
        (
            "MLXK_ALLOWED_HOSTS",
            "LLM.example.org,*.lan,[fd00::1]",
            "allowed_hosts",
            ("llm.example.org", "*.lan", "fd00::1"),
        ),
        ("MLXK_REQUEST_TIMEOUT", "5m", "request_timeout_s", 300.0),
        ("MLXK_RECEIVE_TIMEOUT", "10s", "receive_timeout_s", 10.0),
        ("MLXK_SEND_TIMEOUT", "1m", "send_timeout_s", 60.0),
        ("MLXK_API_KEY_FILE", "/etc/keys", "api_key_file", "/etc/keys"),
    ],
)
def test_environment_variables_are_read(variable: str, text: str, name: str, value: Any) -> None:
    settings = load_settings(environ={variable: text, "MLXK_HOME": "/nonexistent"})
    assert getattr(settings, name) == value
    assert settings.sources[name] == variable


@pytest.mark.parametrize(
    ("variable", "text", "accepted"),
    [
        ("MLXK_PORT", "65536", "from 0 to 65535"),
        ("MLXK_PORT", "-1", "from 0 to 65535"),
        ("MLXK_PORT", "http", "from 0 to 65535"),
        ("MLXK_HOST", "http://x", "such as 127.0.0.1"),
        ("MLXK_MAX_MEMORY", "lots", "or auto"),
        ("MLXK_MAX_MODELS", "1.5", "from 0 up"),
        ("MLXK_KEEP_ALIVE", "soon", "1h30m"),
        ("MLXK_DRAIN_TIMEOUT", "-1", "from 0 up"),
        ("MLXK_START_TIMEOUT", "0", "above 0"),
        ("MLXK_MAX_BATCH", "0", "from 1 up"),
        ("MLXK_SPARE", "maybe", "1/true/yes/on or 0/false/no/off"),
        ("MLXK_ENGINE", "cuda", "mlx, fake"),
        ("MLXK_LOG_LEVEL", "loud", "debug, info, warning"),
        ("MLXK_CORS_ORIGINS", "example.org", "http://HOST"),
        ("MLXK_PRELOAD", "[1]", '["a", "b"]'),
    ],
)
def test_a_wrong_variable_is_named_with_what_is_accepted(variable: str, text: str, accepted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={variable: text, "MLXK_HOME": "/nonexistent"})
    assert str(caught.value).startswith(f"{variable}: ")
    assert accepted in str(caught.value)
    assert text in str(caught.value)


def test_a_wrong_flag_is_named_as_it_is_written() -> None:
    with pytest.raises(ConfigError, match=r"^--max-memory: 'much' is not a size"):
        load_settings({"max_memory": "much"})


def test_flags_may_carry_the_unit_in_their_name_and_empty_ones_count_as_not_given() -> None:
    settings = load_settings({"max_memory_bytes": 5, "preload": (), "log_json": True})
    assert settings.max_memory_bytes == 5
    assert settings.log_json is True
    assert settings.sources["preload"] == "default"


def test_a_flag_that_does_not_exist_is_a_programmers_error() -> None:
    with pytest.raises(TypeError, match="prot"):
        load_settings({"prot": 1})


def test_the_files_values_are_read_with_their_models(mlxk_home: Path, tmp_path: Path) -> None:
    path = write_config(
        mlxk_home,
        """
[server]
max_memory = "16GB"
queue_total = 7
spare = false
api_key_file = "keys.txt"
chat_stop_strings = ["\\nUser:"]

[models."fast"]
id = "mlx-community/Qwen3-0.6B-4bit"
pinned = true
keep_alive = "forever"
context_length = 4096

[models."mine"]
path = "weights/mine"
preload = true
trust_remote_code = true
options = { prefill_step = 64 }

[models.tiny]
preload = true
""",
    )
    settings = load_settings({"preload": ("tiny", "fast")})
    assert settings.max_memory_bytes == 16_000_000_000
    assert settings.queue_total == 7
    assert settings.spare is False
    assert settings.chat_stop_strings == ("\nUser:",)
    assert settings.api_key_file == str(path.parent / "keys.txt")
    assert settings.sources["models"] == "config.toml"
    assert settings.models["fast"] == ModelSettings(
        name="fast",
        id="mlx-community/Qwen3-0.6B-4bit",
        pinned=True,
        keep_alive_s=-1.0,
        context_length=4096,
    )
    mine = settings.models["mine"]
    assert mine.path == str(path.parent / "weights" / "mine")
    assert mine.trust_remote_code
    assert mine.options == {"prefill_step": 64}
    assert settings.preloaded() == ("tiny", "fast", "mine")


def test_model_paths_may_be_absolute_or_in_the_users_home(
    mlxk_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_config(mlxk_home, '[models]\na = {path = "~/a"}\nb = {path = "/opt/b"}\n')
    models = load_settings().models
    assert models["a"].path == str(tmp_path / "a")
    assert models["b"].path == "/opt/b"


def test_a_relative_key_file_of_a_flag_is_taken_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings({"api_key_file": "keys"}).api_key_file == str(tmp_path / "keys")


def test_an_alias_of_itself_is_only_a_table_of_settings(mlxk_home: Path) -> None:
    write_config(mlxk_home, '[models."org/a"]\nid = "org/a"\npinned = true\n')
    assert load_settings().models["org/a"] == ModelSettings(name="org/a", pinned=True)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[server]\n# a comment\nprot = 1\n", ["line 3", "[server] prot", "did you mean port?"]),
        ("[server]\nzzzzz = 1\n", ["line 2", "zzzzz", "known are", "keep_alive"]),
        ('[server]\nport = "many"\n', ["line 2", "[server] port", "from 0 to 65535"]),
        ("[server]\nport = true\n", ["port", "from 0 to 65535"]),
        ("port = 1\n", ["line 1", "port", "[server]"]),
        ("[sever]\nport = 1\n", ["line 1", "sever", "did you mean server?"]),
        ("server = 1\n", ["line 1", "server", "table"]),
        ("models = 1\n", ["models", '[models."NAME"]']),
        ('[models]\n"a/b" = 1\n', ["a/b", "table"]),
        ('[models."a/b"]\npined = true\n', ["line 2", '[models."a/b"] pined', "did you mean pinned?"]),
        ("[models.qwen2.5]\npinned = true\n", ["line 1", 'quote it: [models."qwen2.5"]']),
        ('[models.a]\nid = "x"\npath = "y"\n', ["line 2", "exclude each other"]),
        ('[models."../a"]\nid = "x"\n', ["line 1", "cannot be a model's name"]),
        ('[models.""]\nid = "x"\n', ["cannot be a model's name"]),
        ("[models.a]\noptions = 1\n", ["line 2", "options", "not a table"]),
        ("[models.a]\nkeep_alive = 'x'\n", ["line 2", "keep_alive", "10m"]),
        ("[models.org/a]\n", ["not valid TOML", "line 1", "quotes"]),
    ],
)
def test_a_mistake_in_the_file_is_named_by_file_line_and_key(
    mlxk_home: Path, text: str, parts: list[str]
) -> None:
    path = write_config(mlxk_home, text)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith(str(path))
    for part in parts:
        assert part in message


def test_all_mistakes_are_told_at_once_each_with_its_place(mlxk_home: Path) -> None:
    path = write_config(
        mlxk_home,
        '[models."a/b"]\npined = true\ntemperature = 9\nid = "x"\npath = "y"\n'
        '[models."../c"]\n[models.d]\nsystem = "fine"\n[server]\nport = "http"\nprot = 1\n[servre]\n',
    )
    with pytest.raises(ConfigError) as caught:
        load_settings({"max_memory": "much"}, environ={**os.environ, "MLXK_HOST": "a/b"})
    assert [(one.place, one.line, one.table, one.key) for one in caught.value.mistakes] == [
        (f"{path}:2", 2, 'models."a/b"', "pined"),
        (f"{path}:3", 3, 'models."a/b"', "temperature"),
        (f"{path}:4", 4, 'models."a/b"', "id"),
        (f"{path}:6", 6, 'models."../c"', None),
        (f"{path}:10", 10, "server", "port"),
        (f"{path}:11", 11, "server", "prot"),
        (f"{path}:12", 12, None, "servre"),
        ("MLXK_HOST", None, None, "host"),
        ("--max-memory", None, None, "max_memory"),
    ]
    head, *lines = str(caught.value).splitlines()
    assert head == "9 mistakes in the settings:"
    assert [line.strip() for line in lines] == [one.message for one in caught.value.mistakes]


def test_variables_are_looked_at_also_where_the_file_cannot_be_read(mlxk_home: Path) -> None:
    path = write_config(mlxk_home, "[server]\nport = \n")
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={**os.environ, "MLXK_PORT": "x"})
    broken, variable = caught.value.mistakes
    assert (broken.file, broken.line, variable.place) == (str(path), 2, "MLXK_PORT")


def test_a_file_that_is_not_text_is_an_error_that_says_so(mlxk_home: Path) -> None:
    write_config(mlxk_home, "").write_bytes(b"\xff\xfe[server]")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_settings()


def test_a_folder_in_place_of_the_file_is_an_error(mlxk_home: Path) -> None:
    (mlxk_home / "config.toml").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings()


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^--config: there is no file .*nowhere\.toml"):
        load_settings(config_path=tmp_path / "nowhere.toml")
    monkeypatch.setenv("MLXK_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(ConfigError, match=r"^MLXK_CONFIG: there is no file"):
        load_settings()


def test_another_file_can_be_chosen_and_is_named_as_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.toml").write_text("[server]\nport = 1\n")
    (tmp_path / "b.toml").write_text("[server]\nport = 2\n")
    monkeypatch.setenv("MLXK_CONFIG", str(tmp_path / "a.toml"))
    assert load_settings().port == 1
    chosen = load_settings(config_path=tmp_path / "b.toml")
    assert (chosen.port, chosen.sources["port"]) == (2, "b.toml")


def test_importing_the_settings_loads_nothing_heavy() -> None:
    code = "import sys, mlxk.config.settings as s; s.load_settings(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    ).stdout.split()
    heavy = {
        "asyncio",
        "click",
        "difflib",
        "huggingface_hub",
        "json",
        "logging",
        "msgspec",
        "psutil",
        "pydantic",
    }
    heavy |= {"tomllib", "zmq"}
    assert heavy.isdisjoint(loaded)
