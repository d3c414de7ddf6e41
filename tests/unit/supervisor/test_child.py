"""Real processes: own session, reaped by one reaper, signalled as a group, tied to the lifeline."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from mlxk.supervisor import child as child_module
from mlxk.supervisor import reaper
from mlxk.supervisor.child import Child, Lifeline, spawn, wait_all_exited
from tests.server import is_alive, wait_gone
from tests.unit.supervisor.aio import in_loop

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
FACTS = """
import json, os, signal, sys
print(json.dumps({
    "leads its session": os.getsid(0) == os.getpid(),
    "input": len(os.read(0, 1)),
    "ignores SIGTERM": signal.getsignal(signal.SIGTERM) is signal.SIG_IGN,
    "extra": os.environ["EXTRA"],
    "imports from the working directory": "" in sys.path,
}), flush=True)
"""
HOLDER = (
    "import subprocess, sys, time; "
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    "print(p.pid, flush=True); time.sleep(60)"
)


def use_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "pidfd_open"):
        pytest.skip("no pidfd here")


def use_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "_watch_by_pidfd", refuse)


def use_subprocess(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_setsid(*args: Any, **kwargs: Any) -> int:
        raise NotImplementedError

    monkeypatch.setattr(os, "posix_spawn", refuse_setsid)


def refuse(pid: int) -> asyncio.Future[int]:
    raise OSError("no pidfd in this sandbox")


Choose = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(params=[use_pidfd, use_thread, use_subprocess], ids=["pidfd", "thread", "subprocess"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way of spawning and reaping that the code has."""
    choose: Choose = request.param
    choose(monkeypatch)


@asynccontextmanager
async def running(code: str, *more: str) -> AsyncIterator[Child]:
    lifeline = Lifeline()
    child = spawn(["-c", code, *more], lifeline.read_fd, {"EXTRA": "given"})
    try:
        yield child
    finally:
        child.signal_group(signal.SIGKILL)
        await child.exited
        os.close(child.output_fd)
        lifeline.close()


async def read_line(child: Child) -> str:
    """What the child printed up to a line end."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(child.output_fd, readable.set)
    data = b""
    try:
        while not data.endswith(b"\n"):
            await readable.wait()
            readable.clear()
            with contextlib.suppress(BlockingIOError):
                part = os.read(child.output_fd, 4096)
                assert part, f"ended after {data!r}"
                data += part
    finally:
        loop.remove_reader(child.output_fd)
    return data.decode().strip()


@in_loop
async def test_a_child_leads_its_own_session_and_has_no_input(way: None) -> None:
    async with running(FACTS) as child:
        facts = json.loads(await read_line(child))
    assert facts["leads its session"]
    assert facts["input"] == 0
    assert facts["extra"] == "given"
    assert not facts["imports from the working directory"]


@in_loop
async def test_an_inherited_ignored_signal_does_not_make_a_child_deaf() -> None:
    old = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as under nohup
    try:
        async with running(FACTS) as child:
            facts = json.loads(await read_line(child))
    finally:
        signal.signal(signal.SIGTERM, old)
    assert not facts["ignores SIGTERM"]


@in_loop
async def test_the_exit_is_told_once_the_child_is_reaped(way: None) -> None:
    async with running("raise SystemExit(7)") as child:
        assert os.waitstatus_to_exitcode(await child.exited) == 7
        assert not psutil.pid_exists(child.pid)


@in_loop
async def test_a_reaped_childs_pid_is_never_signalled(way: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("pass") as child:
        await child.exited
        sent: list[int] = []
        monkeypatch.setattr(os, "killpg", lambda pid, number: sent.append(pid))
        monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(pid))
        assert not child.signal_group(signal.SIGTERM)
        assert sent == []


@in_loop
async def test_the_whole_group_is_signalled(way: None) -> None:
    async with running(HOLDER) as child:
        grandchild = int(await read_line(child))
        assert child.signal_group(signal.SIGKILL)
        assert os.waitstatus_to_exitcode(await child.exited) == -signal.SIGKILL
        assert wait_gone([grandchild], 5) == []


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only the pidfd tells of an end before the reap")
@in_loop
async def test_a_grandchild_ends_with_a_child_that_died_on_its_own() -> None:
    async with running(HOLDER) as child:
        grandchild = int(await read_line(child))
        os.kill(child.pid, signal.SIGKILL)
        await child.exited
        assert wait_gone([grandchild], 5) == []


@in_loop
async def test_many_children_are_reaped_in_parallel(way: None) -> None:
    lifeline = Lifeline()
    children = [spawn(["-c", SLEEP], lifeline.read_fd, {}) for _ in range(4)]
    for child in children:
        child.signal_group(signal.SIGKILL)
    await wait_all_exited(children, 10)
    assert all(child.exited.done() for child in children)
    for child in children:
        os.close(child.output_fd)
    lifeline.close()


@in_loop
async def test_waiting_for_exits_gives_up_in_time(way: None) -> None:
    async with running(SLEEP) as child:
        await wait_all_exited([child], 0.01)
        assert not child.exited.done()
        assert is_alive(child.pid)


@in_loop
async def test_the_lifelines_end_is_seen_by_the_child_alone_in_its_session(way: None) -> None:
    lifeline = Lifeline()
    worker = (
        "from mlxk.workers.lifeline import start_lifeline; start_lifeline(int(__import__('sys').argv[1]))"
    )
    code = f"{worker}; print('up', flush=True); import time; time.sleep(60)"
    child = spawn(["-c", code, str(child_module.LIFELINE_FD)], lifeline.read_fd, {})
    assert await read_line(child) == "up"
    lifeline.close()
    assert os.waitstatus_to_exitcode(await child.exited) == 64
    os.close(child.output_fd)


@in_loop
async def test_no_descriptor_stays_open(way: None) -> None:
    async def once() -> None:
        async with running("pass") as child:
            await child.exited

    await once()
    before = psutil.Process().num_fds()
    for _ in range(5):
        await once()
    assert psutil.Process().num_fds() == before


@in_loop
async def test_a_failed_spawn_leaks_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    lifeline = Lifeline()
    before = psutil.Process().num_fds()
    with pytest.raises(OSError, match="nowhere"):
        spawn(["-c", "pass"], lifeline.read_fd, {})
    assert psutil.Process().num_fds() == before
    lifeline.close()
