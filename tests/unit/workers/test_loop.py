"""A worker's two threads with the fake engine, spoken to over a real socket."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxk.workers.clerk import LONG_PROMPT_BYTES, LONG_PROMPT_TOKENS, is_long
from mlxk.workers.lifeline import EXIT_FRONT_GONE
from mlxk.workers.protocol import (
    PROTOCOL,
    Abort,
    Delta,
    Deltas,
    Drain,
    Failed,
    FaultCode,
    Finished,
    FinishReason,
    FromWorker,
    Generate,
    Hello,
    Loaded,
    LoadFailed,
    LoadProgress,
    Ping,
    Pong,
    Shutdown,
    Started,
    TrimCache,
)
from tests.unit.workers.front import Front, InProcessWorker, front_and_worker


@pytest.fixture
def folder(socket_root: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=socket_root) as made:  # tmp_path is too long for a socket
        yield Path(made)


@pytest.fixture
def pair(folder: Path) -> Iterator[tuple[Front, InProcessWorker]]:
    with front_and_worker(folder) as made:
        yield made


def is_last_word_of(request_id: str) -> Any:
    return lambda m: isinstance(m, Finished | Failed) and m.id == request_id


def test_hello_load_generate_deltas_finished_in_this_order(pair: tuple[Front, InProcessWorker]) -> None:
    front, worker = pair
    worker.load(front)
    front.send(Generate("a", prompt="hello", max_tokens=4))
    front.listen_until(is_last_word_of("a"))
    kinds = [type(message) for message in front.heard]
    assert kinds[0] is Hello
    assert kinds.index(LoadProgress) < kinds.index(Loaded) < kinds.index(Started) < kinds.index(Deltas)
    assert kinds[-1] is Finished
    assert front.text("a") == "w0 w1 w2 w3"
    (last,) = front.last_words("a")
    assert isinstance(last, Finished)
    assert (last.reason, last.usage.completion_tokens) == (FinishReason.LENGTH, 4)


def test_one_step_of_several_requests_is_one_frame(pair: tuple[Front, InProcessWorker]) -> None:
    front, worker = pair
    worker.load(front, step_s=0.02)
    front.send(*(Generate(name, prompt=name, max_tokens=5) for name in "abc"))
    frames: list[list[FromWorker]] = []
    while len([w for name in "abc" for w in front.last_words(name)]) < 3:
        frames.append(front.listen())
    ids = [[item.id for item in m.items] for frame in frames for m in frame if isinstance(m, Deltas)]
    # One of them may have been in a step already when the I/O thread came to the next one.
    assert len(ids) == worker.engine.stats().steps
    assert all(sorted(set(one)) == sorted(one) for one in ids)
    assert sorted("".join(map("".join, ids))) == sorted("abc" * 5)
    assert max(map(len, ids)) == 3


def test_an_abort_ends_a_request_within_a_step(pair: tuple[Front, InProcessWorker]) -> None:
    front, worker = pair
    worker.load(front, step_s=0.01)
    front.send(Generate("a", prompt="x", max_tokens=100_000), Generate("b", prompt="y", max_tokens=30))
    front.listen_until(lambda m: isinstance(m, Deltas))
    front.send(Abort("a"))
    last = front.listen_until(is_last_word_of("a"))
    assert isinstance(last, Finished)
    assert last.reason == FinishReason.ABORT
    front.listen_until(is_last_word_of("b"))
    assert len(front.text("b").split()) == 30
    front.send(Abort("a"), Abort("never there"), Ping(1))
    front.listen_until(lambda m: isinstance(m, Pong))
    assert len(front.last_words("a")) == 1


LONG = "x" * (LONG_PROMPT_BYTES + 1)


def test_a_long_prompt_is_prepared_beside_the_others_steps(
    pair: tuple[Front, InProcessWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    front, worker = pair
    worker.load(front, step_s=0.005)
    front.send(Generate("other", prompt="y", max_tokens=100_000))
    front.listen_until(lambda m: isinstance(m, Deltas))
    go_on = worker.hold(monkeypatch, "prepare")
    # When the engine thread has answered the short one, it has met the long one, too.
    front.send(Generate("long", prompt=LONG, max_tokens=2), Generate("short", prompt="z", max_tokens=2))
    front.listen_until(is_last_word_of("short"))
    for _ in range(10):
        front.listen_until(lambda m: isinstance(m, Deltas))
    assert not any(isinstance(m, Started) and m.id == "long" for m in front.heard)
    go_on.set()
    front.listen_until(is_last_word_of("long"))
    assert front.text("long") == "w0 w1"


def test_an_abort_finds_a_long_prompt_that_is_being_prepared(
    pair: tuple[Front, InProcessWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    front, worker = pair
    worker.load(front)
    go_on = worker.hold(monkeypatch, "prepare")
    front.send(Generate("a", prompt=LONG, max_tokens=100_000), Generate("b", prompt=LONG, max_tokens=1))
    front.send(Abort("a"))
    last = front.listen_until(is_last_word_of("a"))
    assert isinstance(last, Failed)
    assert last.fault.code is FaultCode.CANCELLED
    go_on.set()
    front.listen_until(is_last_word_of("b"))
    front.send(Ping(1))
    front.listen_until(lambda m: isinstance(m, Pong))
    assert not [m for m in front.heard if isinstance(m, Started) and m.id == "a"]
    assert len(front.last_words("a")) == 1


def test_a_long_prompt_that_was_taken_is_answered_in_a_drain(pair: tuple[Front, InProcessWorker]) -> None:
    front, worker = pair
    worker.load(front, prepare_s=0.2)
    front.send(Generate("a", prompt=LONG, max_tokens=2), Drain())
    assert isinstance(front.listen_until(is_last_word_of("a")), Finished)


@pytest.mark.parametrize(
    ("request_", "long"),
    [
        (Generate("a", prompt=LONG), True),
        (Generate("a", messages=[{"role": "user", "content": LONG}]), True),
        (Generate("a", tokens=[1] * (LONG_PROMPT_TOKENS + 1)), True),
        (Generate("a", prompt="x"), False),
        (Generate("a", tokens=[1] * 10), False),
    ],
    ids=["text", "chat", "tokens", "short text", "short tokens"],
)
def test_what_is_a_long_prompt(request_: Generate, long: bool) -> None:
    assert is_long(request_) is long


def test_an_abort_right_behind_its_request_ends_it(pair: tuple[Front, InProcessWorker]) -> None:
    front, worker = pair
    worker.load(front, step_s=0.01)
    front.send(Generate("a", prompt="x", max_tokens=100_000), Abort("a"))
    last = front.listen_until(is_last_word_of("a"))
    assert isinstance(last, Finished)
    assert (last.reason, last.usage.completion_tokens) == (FinishReason.ABORT, 0)


def test_a_draining_worker_finishes_what_runs_and_refuses_the_rest(
    pair: tuple[Front, InProcessWorker],
) -> None:
    front, worker = pair
    worker.load(front, step_s=0.01)
    front.send(Generate("a", prompt="x", max_tokens=30), Drain(), Generate("late", prompt="y"))
    front.listen_until(is_last_word_of("a"))
    (late,) = front.last_words("late")
    assert isinstance(late, Failed)
    assert (late.fault.code, late.fault.retryable) == (FaultCode.MODEL_STOPPED, True)
    assert len(front.text("a").split()) == 30


def test_a_worker_without_a_model_refuses_and_goes_on(pair: tuple[Front, InProcessWorker]) -> None:
    front, worker = pair
    front.send(TrimCache(0), Abort("a"), Generate("early", prompt="x"))
    last = front.listen_until(is_last_word_of("early"))
    assert isinstance(last, Failed)
    assert last.fault.code == FaultCode.MODEL_STOPPED
    worker.load(front)
    front.send(Generate("a", prompt="x", max_tokens=1))
    assert isinstance(front.listen_until(is_last_word_of("a")), Finished)


def test_a_cache_can_be_trimmed_before_a_model_is_loaded(folder: Path) -> None:
    """The MLX engine has no cache then; it must not be asked."""
    from mlxk.workers.loop import EngineLoop
    from mlxk.workers.mlx_engine import MlxEngine

    front = Front(folder)
    worker = InProcessWorker(front.address, folder)
    worker.loop = EngineLoop(MlxEngine(), worker.channel)
    worker.start()
    front.listen_until(lambda m: isinstance(m, Hello))
    front.send(TrimCache(0), Ping(1), Shutdown())
    front.listen_until(lambda m: isinstance(m, Pong))
    worker.join()
    front.close()


def test_a_load_that_fails_is_told_and_another_may_follow(pair: tuple[Front, InProcessWorker]) -> None:
    front, worker = pair
    front.send(worker.load_message(load_fails=True))
    failed = front.listen_until(lambda m: isinstance(m, LoadFailed))
    assert isinstance(failed, LoadFailed)
    assert failed.fault.code == FaultCode.MODEL_LOAD_FAILED
    worker.load(front)


def test_an_engine_that_raises_while_loading_is_a_load_that_failed(
    pair: tuple[Front, InProcessWorker],
) -> None:
    front, worker = pair
    front.send(worker.load_message(load_s="not a number"))
    failed = front.listen_until(lambda m: isinstance(m, LoadFailed))
    assert isinstance(failed, LoadFailed)
    assert "ValueError" in failed.fault.message


def test_shutdown_during_a_load_cancels_it(pair: tuple[Front, InProcessWorker]) -> None:
    front, worker = pair
    front.send(worker.load_message(load_s=3600))
    front.listen_until(lambda m: isinstance(m, LoadProgress))
    front.send(Shutdown())
    worker.join()
    while front.listen(100):
        pass
    assert not any(isinstance(m, Loaded | LoadFailed) for m in front.heard)


def test_shutdown_ends_live_requests_with_their_last_words(pair: tuple[Front, InProcessWorker]) -> None:
    front, worker = pair
    worker.load(front, step_s=0.01)
    front.send(*(Generate(name, prompt=name, max_tokens=100_000) for name in "ab"))
    front.listen_until(lambda m: isinstance(m, Deltas))
    front.send(Shutdown(), Generate("late", prompt="x"))
    worker.join()
    while not all(front.last_words(name) for name in ("a", "b", "late")):
        assert front.listen(), "a request without a last word"
    for name in "ab":
        (last,) = front.last_words(name)
        assert isinstance(last, Finished)
        assert last.reason == FinishReason.ABORT
    assert isinstance(front.last_words("late")[0], Failed)


def test_a_ping_is_answered_while_the_engine_hangs(pair: tuple[Front, InProcessWorker]) -> None:
    front, worker = pair
    worker.load(front, hang_at_step=3)
    front.send(Generate("a", prompt="x"))
    ages = []
    steps: set[int] = set()
    deadline = time.monotonic() + 60
    for seq in itertools.count():
        assert time.monotonic() < deadline, "the engine came to no third step"
        front.send(Ping(seq))
        pong = front.listen_until(lambda m: isinstance(m, Pong))
        assert isinstance(pong, Pong)
        assert pong.seq == seq
        if pong.stats.steps == 3:
            ages.append(pong.stats.step_age_s)
            steps.add(pong.stats.steps)
            assert pong.stats.in_flight == 1
        if len(ages) == 5:
            break
    assert steps == {3}
    assert ages == sorted(ages)
    assert ages[-1] > 0


def test_a_frame_that_cannot_be_understood_is_dropped(
    pair: tuple[Front, InProcessWorker], capfd: pytest.CaptureFixture[str]
) -> None:
    front, worker = pair
    for frame in (b"", b"garbage", b"\x91\x81\xa4type\xa7unknown"):
        front.send_frame(frame)
    worker.load(front)
    front.send(Generate("a", prompt="x", max_tokens=2))
    assert isinstance(front.listen_until(is_last_word_of("a")), Finished)
    assert capfd.readouterr().err.count("dropped a frame") == 3


def test_a_request_that_raises_fails_alone(pair: tuple[Front, InProcessWorker]) -> None:
    front, worker = pair
    worker.load(front, fail_request="poison", step_s=0.005)
    front.send(
        Generate("a", prompt="x", max_tokens=10), Generate("bad", prompt="poison"), Generate("c", prompt="y")
    )
    front.listen_until(is_last_word_of("c"))
    (bad,) = front.last_words("bad")
    assert isinstance(bad, Failed)
    assert bad.fault.code == FaultCode.ENGINE_ERROR
    assert "poison" in bad.fault.message
    assert len(front.text("a").split()) == 10


def test_a_worker_that_can_no_longer_speak_ends(
    pair: tuple[Front, InProcessWorker], capfd: pytest.CaptureFixture[str]
) -> None:
    """A message that cannot be encoded ends the I/O thread: deaf and dumb, the process must not stay."""
    front, worker = pair
    worker.load(front)
    worker.channel.send([Deltas([Delta("a", "\ud83d")])])
    worker.join()
    assert "UnicodeEncodeError" in capfd.readouterr().err


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.sampled_from(["generate", "abort", "bad", "ping", "drain"]), st.integers(0, 5)),
        max_size=25,
    ),
    st.booleans(),
)
def test_every_request_gets_exactly_one_last_word(
    socket_root: Path, steps: list[tuple[str, int]], shut_down: bool
) -> None:
    with (
        tempfile.TemporaryDirectory(dir=socket_root) as made,
        front_and_worker(Path(made)) as (front, worker),
    ):
        worker.load(front, fail_request="poison")
        asked: set[str] = set()
        for i, (what, n) in enumerate(steps):
            if what == "generate":
                asked.add(str(i))
                front.send(Generate(str(i), prompt="x", max_tokens=1 + n * 40))
            elif what == "bad":
                asked.add(str(i))
                front.send(Generate(str(i), prompt="poison"))
            elif what == "abort" and asked:
                front.send(Abort(sorted(asked)[n % len(asked)]))
            elif what == "ping":
                front.send(Ping(i))
            elif what == "drain" and n == 0:
                front.send(Drain())
        if shut_down:
            front.send(Shutdown())
        while any(not front.last_words(name) for name in asked):
            assert front.listen(), "a request without a last word"
        if shut_down:
            worker.join()
        else:
            front.send(Ping(-1))
            front.listen_until(lambda m: isinstance(m, Pong) and m.seq == -1)
        while front.listen(0):
            pass
        assert all(len(front.last_words(name)) == 1 for name in asked)
        ends = {m.id: i for i, m in enumerate(front.heard) if isinstance(m, Finished | Failed)}
        for i, message in enumerate(front.heard):
            if isinstance(message, Deltas):
                assert all(i < ends[item.id] for item in message.items)


# ------------------------------------------------------------------- as a process


@pytest.fixture
def process(folder: Path) -> Iterator[tuple[Front, subprocess.Popen[bytes], int]]:
    """A worker process (fake engine), and the end of the lifeline that keeps it."""
    front = Front(folder)
    read_end, write_end = os.pipe()
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlxk.workers", "--connect", front.address, "--id", "w1"),
            *("--lifeline-fd", str(read_end), "--engine", "fake"),
        ],
        pass_fds=[read_end],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_end)
    ends = [write_end]
    try:
        hello = front.listen_until(lambda m: isinstance(m, Hello))
        assert isinstance(hello, Hello)
        assert (hello.protocol, hello.pid, hello.engine) == (PROTOCOL, child.pid, "fake")
        yield front, child, write_end
    finally:
        child.kill()
        child.wait()
        front.close()
        for end in ends:
            try:
                os.close(end)
            except OSError:
                continue


def test_a_worker_whose_front_is_gone_ends_at_once(
    process: tuple[Front, subprocess.Popen[bytes], int],
) -> None:
    _, child, lifeline = process
    began = time.monotonic()
    os.close(lifeline)
    assert child.wait(10) == EXIT_FRONT_GONE
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_shutdown(
    number: signal.Signals, process: tuple[Front, subprocess.Popen[bytes], int]
) -> None:
    front, child, _ = process
    child.send_signal(number)
    assert child.wait(10) == 0
    assert front.listen(0) == []
