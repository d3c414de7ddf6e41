"""What people and clients are told of a crash, and what the server does after several."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.process.client import Request
from tests.process.watch import until
from tests.server import Server, add_fake_model


def test_the_last_crash_is_explained_also_after_the_servers_end(start: Callable[..., Server]) -> None:
    server = start()
    add_fake_model(server.home, "crashes", crash_at_step=3)
    with Request(server, "crashes") as request:
        assert "died" in request.error()["message"]
    until(lambda: server.ps()["crashes"]["pid"] is None)
    pid = json.loads(server.cli("logs", "--last-crash", "--json", "crashes").stdout)["data"]["crash"]["pid"]
    server.signal(signal.SIGTERM)
    server.wait()
    text = server.cli("logs", "--last-crash", "crashes").stdout
    assert "crashes crashed at 20" in text
    assert f"pid {pid}" in text
    assert "state:    ready, requests running: 1" in text
    assert server.cli("logs", "--last-crash").stdout == text
    none = server.cli("logs", "--last-crash", "tiny")
    assert (none.returncode, none.stdout) == (0, "No crash of tiny is known.\n")


def test_a_model_that_died_is_shown_until_it_is_loaded_or_stopped(start: Callable[..., Server]) -> None:
    server = start()
    add_fake_model(server.home, "crashes", crash_at_step=3)
    add_fake_model(server.home, "fine")
    server.call("load", {"models": ["crashes", "fine"]})
    os.kill(server.ps()["fine"]["pid"], signal.SIGKILL)
    with Request(server, "crashes") as request:
        request.error()
    until(lambda: all(one["pid"] is None for one in server.ps().values()))
    shown = server.ps()
    assert {name: (one["state"], one["crashes"]) for name, one in shown.items()} == {
        "crashes": ("absent", 1),
        "fine": ("absent", 1),
    }
    assert "killed by SIGKILL" in shown["fine"]["last_error"]
    assert server.cli("ps", "--wide").stdout.count("its process ended while it ran (") == 2
    server.call("load", {"models": ["fine"]})
    assert (server.ps()["fine"]["restarts"], server.ps()["fine"]["last_error"]) == (1, None)
    assert server.cli("stop", "crashes").stdout == "crashes was not running\n"
    assert list(server.ps()) == ["fine"]
    server.cli("stop", "fine")
    assert server.ps() == {}


def test_five_deaths_in_a_minute_are_the_end_until_somebody_asks(start: Callable[..., Server]) -> None:
    server = start()
    add_fake_model(server.home, "dies", die_in_load=True)
    began = time.monotonic()
    while server.ps().get("dies", {}).get("state") != "failed":
        assert time.monotonic() - began < 60
        with Request(server, "dies") as request:
            message = request.error()["message"]
            assert "exit code 17" in message
            assert "fake engine: dying in load" in message
            assert len(message) < 4000
    assert time.monotonic() - began > 0.5 + 1 + 2  # it was not tried in a loop: the waits grow
    shown = server.ps()["dies"]
    assert "`mlxk load dies`" in shown["last_error"]
    assert shown["crashes"] == 5
    with Request(server, "dies") as request:
        assert request.error()["code"] == "model_failed"
    (server.home / "models" / "dies" / "fake.json").write_text("{}")
    assert server.cli("load", "dies").returncode == 0
    with Request(server, "dies") as request:
        assert request.text()
    assert server.ps()["dies"]["last_error"] is None
    assert server.ps()["dies"]["crashes"] == 5


def test_what_a_client_is_told_of_a_log_is_cut_and_holds_no_secret(start: Callable[..., Server]) -> None:
    server = start(api_key_file="", hf_token="")
    secret = "hf_" + "s" * 30
    lines = [f"token {secret}", f"in {Path.home()}/private/x.py", "\x1b[31mred\x1b[0m", "x" * 5000]
    add_fake_model(server.home, "talks", die_in_load=True, print_lines=lines)
    with Request(server, "talks") as request:
        message = request.error()["message"]
    assert secret not in message
    assert f"{Path.home()}/private" not in message
    assert "~/private/x.py" in message
    assert "\x1b" not in message
    assert len(message) < 4000
