from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlxk.api.doors import BodyDoor, KeyDoor
from mlxk.api.rules import DoorRules, load_keys, refuse_open_door
from mlxk.config.settings import ConfigError, Settings
from tests.unit.api.asgi import ask, welcome


def rules(*keys: str, **settings: Any) -> DoorRules:
    made = DoorRules(Settings(**settings))
    made.keys = tuple(key.encode() for key in keys)
    return made


# ---------------------------------------------------------------------------- keys


@pytest.mark.parametrize("header", ["Bearer k1", "bearer k1", "Bearer k2", "Bearer  k2 "])
def test_any_of_the_keys_opens(header: str) -> None:
    app = KeyDoor(welcome, rules("k1", "k2"))
    assert ask(app, headers=[("Authorization", header)]).status == 200


@pytest.mark.parametrize("header", ["", "k1", "Bearer", "Bearer k", "Bearer k11", "Basic k1", "Bearer é"])
def test_anything_else_does_not(header: str) -> None:
    app = KeyDoor(welcome, rules("k1", "k2"))
    refused = ask(app, path="/v1/models", headers=[("Authorization", header)])
    assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
    assert refused.headers["www-authenticate"] == "Bearer"


def test_two_authorizations_are_none() -> None:
    headers = [("Authorization", "Bearer k1"), ("Authorization", "Bearer k1")]
    assert ask(KeyDoor(welcome, rules("k1")), headers=headers).status == 401


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_need_no_key(path: str) -> None:
    assert ask(KeyDoor(welcome, rules("k1")), path=path).status == 200


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nk1\n\n  k2  \n")
    environ = {"MLXK_API_KEY": "k3", "MLXK_API_KEYS": "k4, k1,,"}
    assert load_keys(Settings(api_key_file=str(path)), environ) == (b"k1", b"k2", b"k3", b"k4")
    assert load_keys(Settings(), {}) == ()


def test_a_key_file_that_gives_no_key_stops_the_start(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("# nothing\n")
    for path in (empty, tmp_path / "absent", tmp_path):
        with pytest.raises(ConfigError, match="api_key_file"):
            load_keys(Settings(api_key_file=str(path)), {})


def test_an_open_address_needs_a_key_or_a_word() -> None:
    with pytest.raises(ConfigError, match="--no-auth"):
        refuse_open_door(Settings(host="0.0.0.0"), ())
    refuse_open_door(Settings(host="0.0.0.0"), (b"k",))
    refuse_open_door(Settings(host="0.0.0.0", no_auth=True), ())
    refuse_open_door(Settings(), ())


# ---------------------------------------------------------------------------- body


@pytest.mark.parametrize("pieces", [[b"x" * 10], [b"x" * 4] * 2, [b""]])
def test_a_body_within_the_limit_passes(pieces: list[bytes]) -> None:
    answer = ask(BodyDoor(welcome, rules(max_body_bytes=10)), method="POST", body=pieces)
    assert (answer.status, answer.body) == (200, str(len(b"".join(pieces))).encode())


@pytest.mark.parametrize("length", ["11", "0011", "9" * 5000])
def test_a_large_content_length_is_refused_before_it_is_read(length: str) -> None:
    answer = ask(
        BodyDoor(welcome, rules(max_body_bytes=10)),
        method="POST",
        headers=[("Content-Length", length)],
        body=(),
    )
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large() -> None:
    answer = ask(
        BodyDoor(welcome, rules(max_body_bytes=10)), method="POST", body=[b"x" * 6, b"x" * 6, b"never read"]
    )
    assert answer.status == 413


# -------------------------------------------------------------------------- reload


def test_new_keys_and_limits_are_taken_up_together_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("first")
    doors = DoorRules(Settings(api_key_file=str(file)))
    key_door, body_door = KeyDoor(welcome, doors), BodyDoor(welcome, doors)
    file.write_text("second")
    doors.take_up(Settings(api_key_file=str(file), max_body_bytes=5))
    assert ask(key_door, headers=[("Authorization", "Bearer first")]).status == 401
    assert ask(key_door, headers=[("Authorization", "Bearer second")]).status == 200
    assert ask(body_door, method="POST", body=[b"x" * 6]).status == 413
    file.write_text("# none")
    with pytest.raises(ConfigError):
        doors.take_up(Settings(api_key_file=str(file), max_body_bytes=50))
    assert ask(key_door, headers=[("Authorization", "Bearer second")]).status == 200
    assert ask(body_door, method="POST", body=[b"x" * 6]).status == 413


# ------------------------------------------------------------------------ compression


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, deflate", "GZIP"])
def test_a_compressed_body_is_refused_with_what_to_do(encoding: str) -> None:
    refused = ask(BodyDoor(welcome, rules()), method="POST", headers=[("Content-Encoding", encoding)])
    assert (refused.status, refused.error["code"]) == (415, "unsupported_content_encoding")
    assert "uncompressed" in refused.error["message"]
    assert refused.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_a_body_as_it_is_passes(encoding: str) -> None:
    app = BodyDoor(welcome, rules())
    assert ask(app, method="POST", headers=[("Content-Encoding", encoding)]).status == 200
