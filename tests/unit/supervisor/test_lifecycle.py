"""The server's start and end in this process, with an HTTP server that does nothing: where a start fails, and
what is left then."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxk.config.errors import ConfigError
from mlxk.config.settings import Settings
from mlxk.supervisor import lifecycle, shutdown
from mlxk.supervisor.lifecycle import HttpServer, MakeApp, run_server
from mlxk.supervisor.pool import Pool
from mlxk.supervisor.run_dir import StartError
from mlxk.supervisor.service import Service
from mlxk.supervisor.shutdown import EXIT_ERROR, EXIT_OK, ShutdownPlan, start_watchdog

SETTINGS = Settings(port=0, engine="fake", spare=False)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own; the signal handlers and the watchdogs of these servers do not outlive the test."""
    monkeypatch.setenv("MLXK_HOME", str(tmp_path))
    monkeypatch.setattr(lifecycle, "start_watchdog", lambda plan, leave: None)
    monkeypatch.setattr(lifecycle, "sweep_leftovers", lambda: 0)
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield tmp_path
    for number, handler in kept.items():
        signal.signal(number, handler)


class Http:
    """Ends the server as soon as it is ready."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.stopped = False

    async def start(self, sock: socket.socket) -> None:
        self.service.request_shutdown()

    async def stop(self, timeout_s: float) -> None:
        self.stopped = True


def serve(make_http: Any, settings: Settings = SETTINGS) -> int:
    def make_app(service: Service, settings: Settings) -> HttpServer:
        http: HttpServer = make_http(service)
        return http

    return run_server(settings, private=False, ready_fd=None, import_api=lambda: make_app)


def assert_clean(home: Path, socket_root: Path) -> None:
    assert not (home / "instance.json").exists()
    assert not list(socket_root.glob("mlxk-*"))


def test_a_server_that_is_asked_to_stop_ends_with_0(home: Path, socket_root: Path) -> None:
    assert serve(Http) == EXIT_OK
    assert_clean(home, socket_root)


def test_the_first_worker_starts_beside_the_imports_of_the_api() -> None:
    """Both take long, on two cores. In turn they would make the first answer wait for their sum."""
    before = set(psutil.Process().children())
    started: set[psutil.Process] = set()

    def import_api() -> MakeApp:
        deadline = time.monotonic() + 20
        while not started and time.monotonic() < deadline:
            started.update(set(psutil.Process().children()) - before)
            time.sleep(0.01)
        return lambda service, settings: Http(service)

    settings = replace(SETTINGS, preload=("tiny",))
    assert run_server(settings, private=False, ready_fd=None, import_api=import_api) == EXIT_OK
    assert started


def test_two_lives_in_one_process(home: Path) -> None:
    assert [serve(Http), serve(Http)] == [EXIT_OK, EXIT_OK]


def test_a_refused_configuration_leaves_no_socket_open(home: Path, socket_root: Path) -> None:
    def refuse(service: Service) -> Http:
        raise ConfigError("no key for a public address")

    with pytest.raises(ConfigError):
        serve(refuse)
    assert_clean(home, socket_root)


def test_an_http_server_that_does_not_start_ends_the_workers(home: Path, socket_root: Path) -> None:
    class Broken(Http):
        async def start(self, sock: socket.socket) -> None:
            while not (await self.service.pool_data())["server"]["spare"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            raise RuntimeError("no threads left")

    with pytest.raises(RuntimeError, match="no threads left"):
        serve(Broken, Settings(port=0, engine="fake", spare=True))
    assert_clean(home, socket_root)


def test_a_bug_in_the_pools_task_ends_the_server_loudly(
    home: Path, socket_root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def break_down(self: Pool) -> None:
        raise ZeroDivisionError("a bug of ours")

    class Waiting(Http):
        async def start(self, sock: socket.socket) -> None:
            pass

    monkeypatch.setattr(Pool, "run", break_down)
    assert serve(Waiting) == EXIT_ERROR
    assert "a bug of ours" in caplog.text
    assert_clean(home, socket_root)


def test_a_home_that_cannot_be_written_is_a_clear_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("MLXK_HOME", str(home / "file" / "home"))
    with pytest.raises(StartError, match="MLXK_HOME"):
        serve(Http)


def test_an_address_that_cannot_be_used_is_a_clear_error(socket_root: Path) -> None:
    with pytest.raises(StartError, match="no such host"):
        serve(Http, Settings(host="no such host", port=0, engine="fake"))


def test_the_watchdog_leaves_when_the_orderly_end_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutdown, "WATCHDOG_MARGIN_S", 0.0)
    monkeypatch.setattr(shutdown, "HTTP_CLOSE_S", 0.0)
    left = threading.Event()
    start_watchdog(ShutdownPlan(EXIT_OK, 0, 0), left.set)
    assert left.wait(5)
    assert "too long" in capsys.readouterr().err


def test_no_descriptor_stays_open(home: Path) -> None:
    serve(Http)
    before = len(os.listdir("/dev/fd"))
    serve(Http)
    assert len(os.listdir("/dev/fd")) == before
