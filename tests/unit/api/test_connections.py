from __future__ import annotations

import resource
import socket
import sys

import pytest

from mlxk.api.connections import KEEPALIVE_EVERY_S, KEEPALIVE_IDLE_S, KEEPALIVE_PROBES, watch_peer
from mlxk.api.descriptors import (
    FEW,
    FEWEST,
    MIN_RESERVE,
    http_ceiling,
    prepare_descriptors,
    raise_limit,
)
from mlxk.config.settings import ConfigError


def test_the_system_is_told_to_watch_for_vanished_clients() -> None:
    with socket.socket(socket.AF_INET) as sock:
        watch_peer(sock, 7.5)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == KEEPALIVE_EVERY_S
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == KEEPALIVE_PROBES
        if sys.platform == "linux":
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE_S
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7500


def test_other_sockets_are_left_alone() -> None:
    watch_peer(None, 1)
    first, second = socket.socketpair()
    with first, second:
        watch_peer(first, 1)
        assert not first.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize(
    ("limits", "raised", "ceiling"),
    [
        ((256, 4096), 4096, 4096 - 512),
        ((256, 300), 300, 300 - MIN_RESERVE),
        ((150, 150), 150, 75),
        ((1024, 1_000_000), 65_536, 65_536 - 8192),
        ((100_000, 200_000), 100_000, 87_500),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 65_536, 65_536 - 8192),
    ],
)
def test_the_limit_of_open_files_is_raised_and_some_are_kept_free(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    limits: tuple[int, int],
    raised: int,
    ceiling: int,
) -> None:
    now = list(limits)
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: now.__setitem__(slice(None), new))
    prepare_descriptors()
    assert raise_limit() == raised
    assert now[1] == limits[1]
    assert http_ceiling() == ceiling
    assert ("ulimit -n" in caplog.text) == (raised < FEW)


def test_a_limit_that_leaves_no_room_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (FEWEST - 1, FEWEST - 1))
    with pytest.raises(ConfigError, match=r"only 127 files may be open at once.*ulimit -n"):
        prepare_descriptors()


def test_macos_takes_no_more_than_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hard limit says infinity."""
    now = [256, resource.RLIM_INFINITY]

    def set_limit(which: int, new: tuple[int, int]) -> None:
        if new[0] > 10_240:
            raise ValueError("current limit exceeds maximum limit")
        now[:] = new

    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    assert raise_limit() == 10_240
