"""Tokenizing beside the engine thread: other requests go on, an abort does not wait, each ends once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlxk.workers.protocol import (
    Abort,
    Deltas,
    Detokenize,
    Detokenized,
    Drain,
    Failed,
    FaultCode,
    FromWorker,
    Generate,
    LastWord,
    Shutdown,
    Tokenize,
    Tokenized,
)
from tests.unit.workers.front import Front, InProcessWorker, front_and_worker


@pytest.fixture
def pair(socket_root: Path) -> Iterator[tuple[Front, InProcessWorker]]:
    with tempfile.TemporaryDirectory(dir=socket_root) as folder, front_and_worker(Path(folder)) as made:
        yield made


def end_of(request_id: str) -> Callable[[FromWorker], bool]:
    return lambda message: isinstance(message, LastWord) and message.id == request_id


def ends(front: Front, request_id: str) -> list[FromWorker]:
    return [message for message in front.heard if end_of(request_id)(message)]


def test_both_ways_are_answered(pair: tuple[Front, InProcessWorker]) -> None:
    front, worker = pair
    worker.load(front)
    front.send(Tokenize("t", prompt="hé"), Detokenize("d", [104, 195, 169]), Detokenize("x", [300]))
    front.listen_until(end_of("x"))
    assert ends(front, "t") == [Tokenized("t", [104, 195, 169], 4096)]
    assert ends(front, "d") == [Detokenized("d", "hé")]
    (failed,) = ends(front, "x")
    assert isinstance(failed, Failed)
    assert failed.fault.code is FaultCode.INVALID_REQUEST


def test_others_get_their_tokens_meanwhile(
    pair: tuple[Front, InProcessWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    front, worker = pair
    worker.load(front, step_s=0.005)
    front.send(Generate("g", prompt="go", max_tokens=100_000))
    front.listen_until(lambda message: isinstance(message, Deltas))
    go_on = worker.hold(monkeypatch, "tokenize")
    front.send(Tokenize("t", prompt="long"), Tokenize("next", prompt="x"), Abort("next"))
    front.listen_until(end_of("next"))  # so the engine thread has "t", too
    for _ in range(6):
        front.listen_until(lambda message: isinstance(message, Deltas))
    assert not ends(front, "t")
    go_on.set()
    front.listen_until(end_of("t"))
    front.send(Abort("g"))
    front.listen_until(end_of("g"))


def test_an_abort_is_answered_at_once_and_once(
    pair: tuple[Front, InProcessWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is in the works, and of what waits behind it; the next one is served."""
    front, worker = pair
    worker.load(front)
    go_on = worker.hold(monkeypatch, "tokenize")
    front.send(Tokenize("a", prompt="x"), Tokenize("b", prompt="x"), Abort("a"), Abort("b"), Abort("b"))
    front.send(Tokenize("c", prompt="x"))
    front.listen_until(end_of("b"))
    go_on.set()
    front.listen_until(end_of("c"))
    for request_id in ("a", "b"):
        (word,) = ends(front, request_id)
        assert isinstance(word, Failed)
        assert word.fault.code is FaultCode.CANCELLED
    assert len(ends(front, "c")) == 1
    order = [message.id for message in front.heard if isinstance(message, LastWord)]
    assert order == ["a", "b", "c"]


class Panic(BaseException):
    """As pyo3's: a panic of the tokenizer's Rust code."""


@pytest.mark.parametrize("kind", [ValueError, Panic])
def test_a_tokenizer_that_raises_fails_the_request_alone(
    pair: tuple[Front, InProcessWorker], monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    front, worker = pair
    worker.load(front)
    tokenize = worker.engine.tokenize

    def raise_once(request: Tokenize) -> Tokenized:
        monkeypatch.setattr(worker.engine, "tokenize", tokenize)
        raise kind("no such text")

    monkeypatch.setattr(worker.engine, "tokenize", raise_once)
    front.send(Tokenize("a", prompt="x"), Tokenize("b", prompt="x"))
    front.listen_until(end_of("b"))
    (failed,) = ends(front, "a")
    assert isinstance(failed, Failed)
    assert (failed.fault.code, "no such text" in failed.fault.message) == (FaultCode.ENGINE_ERROR, True)


@pytest.mark.parametrize("state", ["without a model", "draining"])
def test_a_worker_that_cannot_says_so(pair: tuple[Front, InProcessWorker], state: str) -> None:
    front, worker = pair
    if state == "draining":
        worker.load(front)
        front.send(Drain())
    front.send(Tokenize("t", prompt="x"), Detokenize("d", [1]))
    front.listen_until(end_of("d"))
    for request_id in ("t", "d"):
        (word,) = ends(front, request_id)
        assert isinstance(word, Failed)
        assert word.fault.code is FaultCode.MODEL_STOPPED


def test_a_shutdown_does_not_wait_for_it(
    pair: tuple[Front, InProcessWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    front, worker = pair
    worker.load(front)
    go_on = worker.hold(monkeypatch, "tokenize")
    front.send(Tokenize("a", prompt="x"), Tokenize("b", prompt="x"), Shutdown())
    front.listen_until(end_of("b"))
    for request_id in ("a", "b"):
        (word,) = ends(front, request_id)
        assert isinstance(word, Failed)
        assert word.fault.code is FaultCode.CANCELLED
    worker.join()
    go_on.set()
