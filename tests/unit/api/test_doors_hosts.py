from __future__ import annotations

from typing import Any

import pytest

from mlxk.api.hosts import HostDoor, host_name, is_local_name
from mlxk.api.rules import DoorRules, is_loopback
from mlxk.config.parsers import parse_hosts
from mlxk.config.settings import Settings
from tests.unit.api.asgi import ask, welcome


def door(*keys: str, **settings: Any) -> HostDoor:
    rules = DoorRules(Settings(no_auth=True, **settings))
    rules.keys = tuple(key.encode() for key in keys)
    return HostDoor(welcome, rules)


def status(app: HostDoor, host: str) -> int:
    return ask(app, headers=[("Host", host)]).status


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST:8000", "localhost"),
        ("localhost.", "localhost"),
        ("localhost.:8000", "localhost"),
        ("localhost:", "localhost"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::1]:8000", "::1"),
        (" localhost ", "localhost"),
        ("", None),
        (":8000", None),
        ("[]", None),
        (".", None),
        ("[::1", None),
        ("[::1]evil.example", None),
        ("[::1]:8000.evil.example", None),
        ("localhost:evil.example", None),
        ("localhost:8000:8000", None),
        ("localhost@evil.example", None),
        ("localhost/evil", None),
        ("local host", None),
    ],
)
def test_the_name_in_a_host_header(value: str, name: str | None) -> None:
    assert host_name(value.encode()) == name


@pytest.mark.parametrize(
    "name", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "app.localhost"]
)
def test_names_of_this_machine(name: str) -> None:
    assert is_local_name(name)
    assert is_local_name("host.docker.internal")


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io",
        "notlocalhost",
        "evilinternal",
        "192.168.1.5",
        "0.0.0.0",
        "::",
        "::ffff:192.168.1.5",
        "2130706433",
        "\xff",
    ],
)
def test_other_names_are_not(name: str) -> None:
    assert not is_local_name(name)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LocalHost.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("::ffff:0.0.0.0", False),
        ("fe80::1%lo", False),
        ("0", False),
        ("mac", False),
        ("localhost.example.org", False),
    ],
)
def test_loopback_addresses(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_rebound_name_is_refused_with_what_to_do() -> None:
    app = door()
    assert status(app, "localhost:8000") == 200
    assert ask(app).status == 200
    refused = ask(app, headers=[("Host", "evil.example")])
    assert (refused.status, refused.error["code"], refused.error["param"]) == (
        403,
        "host_not_allowed",
        "Host",
    )
    assert "allowed_hosts" in refused.error["message"]


def test_two_hosts_are_none() -> None:
    for other in ("evil.example", "localhost"):
        assert ask(door(), headers=[("Host", "localhost"), ("Host", other)]).status == 403


def test_a_listed_name_is_answered_on_loopback_too() -> None:
    app = door(allowed_hosts=parse_hosts("LLM.example.org., *.lan.example"))
    assert status(app, "llm.example.org") == status(app, "llm.example.org:443") == 200
    assert status(app, "a.b.lan.example") == 200
    assert status(app, "lan.example") == status(app, "evil.example") == 403
    assert status(app, "evil-llm.example.org") == status(app, "xlan.example") == 403


def test_on_an_open_address_keys_are_protection_enough() -> None:
    assert status(door("k", host="0.0.0.0"), "anything.example") == 200
    assert status(door("k", host="0.0.0.0", allowed_hosts=("one.example",)), "anything.example") == 403


@pytest.mark.parametrize(
    "host", ["192.168.1.5:8000", "[fd00::1]:8000", "mac", "mac.local", "box.lan", "mlxk:8000"]
)
def test_on_an_open_address_without_keys_private_names_are_answered(host: str) -> None:
    assert status(door(host="0.0.0.0"), host) == 200


def test_on_an_open_address_without_keys_a_public_name_must_be_listed() -> None:
    assert status(door(host="0.0.0.0"), "rebound.example") == 403
    assert status(door(host="0.0.0.0", allowed_hosts=("*",)), "rebound.example") == 200


@pytest.mark.parametrize(
    "value", ["http://a.example", "a.example:80", "a b", "*.*", "a/", ["a.example", "é"]]
)
def test_what_is_no_host_name_is_refused_as_a_setting(value: Any) -> None:
    with pytest.raises(ValueError, match="host name"):
        parse_hosts(value)
