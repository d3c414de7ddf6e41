"""Real processes: own session, reaped by one reaper, signalled as a group, tied to the lifeline."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from mlxk.supervisor import child as child_module
from mlxk.supervisor.child import Child, Lifeline, spawn, wait_all_exited
from mlxk.supervisor.reaper import Reaper
from mlxk.workers.lifeline import EXIT_FRONT_GONE
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
    monkeypatch.setattr(Reaper, "_watch_by_pidfd", lambda self: False)


def use_subprocess(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_setsid(*args: Any, **kwargs: Any) -> int:
        raise NotImplementedError

    monkeypatch.setattr(os, "posix_spawn", refuse_setsid)


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


@in_loop
async def test_a_grandchild_ends_with_a_child_that_died_on_its_own(way: None) -> None:
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
    assert os.waitstatus_to_exitcode(await child.exited) in (EXIT_FRONT_GONE, -signal.SIGTERM)
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
async def test_what_a_dead_child_left_is_killed_before_the_reap(
    way: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it, the number of the group may be somebody else's."""
    waitpid = os.waitpid
    states: list[str] = []

    def watched(pid: int, flags: int) -> tuple[int, int]:
        states.append(psutil.Process(pid).status())
        assert wait_gone([grandchild], 5) == []
        return waitpid(pid, flags)

    async with running(HOLDER) as child:
        grandchild = int(await read_line(child))
        monkeypatch.setattr(os, "waitpid", watched)
        os.kill(child.pid, signal.SIGKILL)
        await child.exited
    assert states == [psutil.STATUS_ZOMBIE]


@in_loop
async def test_no_signal_falls_between_the_reap_and_the_note_of_it(
    way: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals come from other threads: the watchdog's, and that of the second Ctrl-C."""
    waitpid = os.waitpid
    attempts: list[threading.Thread] = []
    results: list[bool] = []

    def reap_and_be_signalled(pid: int, flags: int) -> tuple[int, int]:
        result = waitpid(pid, flags)  # from now on the pid is free
        attempt = threading.Thread(target=lambda: results.append(child.signal_group(signal.SIGKILL)))
        attempt.start()
        attempts.append(attempt)
        attempt.join(0.1)  # it must wait for us
        return result

    async with running("pass") as child:
        monkeypatch.setattr(os, "waitpid", reap_and_be_signalled)
        await child.exited
        monkeypatch.undo()
    for attempt in attempts:
        attempt.join()
    assert results == [False]


@pytest.mark.parametrize("call", range(3))
@in_loop
async def test_a_spawn_without_descriptors_left_leaks_none(
    call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EMFILE at any of its steps."""
    lifeline = Lifeline()
    before = psutil.Process().num_fds()
    calls = iter(range(10))

    def refuse_at_last(real: Callable[..., Any]) -> Callable[..., Any]:
        def once(*args: Any) -> Any:
            if next(calls) == call:
                raise OSError(errno.EMFILE, "Too many open files")
            return real(*args)

        return once

    monkeypatch.setattr(os, "pipe", refuse_at_last(os.pipe))
    monkeypatch.setattr(child_module.fcntl, "fcntl", refuse_at_last(child_module.fcntl.fcntl))
    with pytest.raises(OSError, match="Too many"):
        spawn(["-c", "pass"], lifeline.read_fd, {})
    monkeypatch.undo()
    assert psutil.Process().num_fds() == before
    lifeline.close()


@in_loop
async def test_a_child_that_cannot_be_waited_for_is_ended_and_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor for a pidfd, and no thread either."""
    started: list[int] = []

    def refuse(self: Reaper) -> None:
        started.append(self._pid)
        raise OSError("no thread can be started")

    monkeypatch.setattr(Reaper, "_watch_by_pidfd", lambda self: False)
    monkeypatch.setattr(Reaper, "_watch_by_thread", refuse)
    lifeline = Lifeline()
    before = psutil.Process().num_fds()
    with pytest.raises(OSError, match="no thread"):
        spawn(["-c", SLEEP], lifeline.read_fd, {})
    assert not psutil.pid_exists(started[0])
    assert psutil.Process().num_fds() == before
    lifeline.close()


@in_loop
async def test_signals_that_the_front_blocks_reach_the_child(way: None) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    code = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), flush=True)"
    unblock = "import signal; signal.pthread_sigmask(signal.SIG_SETMASK, ()); "  # as a worker's main does
    try:
        async with running(unblock + code) as child:
            assert await read_line(child) == "[]"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@in_loop
async def test_a_failed_spawn_leaks_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    lifeline = Lifeline()
    before = psutil.Process().num_fds()
    with pytest.raises(OSError, match="nowhere"):
        spawn(["-c", "pass"], lifeline.read_fd, {})
    assert psutil.Process().num_fds() == before
    lifeline.close()


@in_loop
async def test_a_child_that_somebody_else_has_reaped_is_gone_all_the_same() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as inherited from a parent: the system reaps
    try:
        pid = os.posix_spawn(  # noqa: ASYNC221  # it does not wait
            "/bin/sleep", ["sleep", "60"], {}, setsid=True
        )
        reaper = Reaper(pid)
        assert reaper.signal_group(signal.SIGKILL)
        await asyncio.wait_for(reaper.exited, 10)
        assert not reaper.signal_group(signal.SIGKILL)
    finally:
        signal.signal(signal.SIGCHLD, before)
