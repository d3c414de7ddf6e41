"""The ROUTER with real sockets: each event to its mailbox, a death to exactly its requests."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import zmq

from mlxk.supervisor.mailbox import Mailbox
from mlxk.supervisor.switchboard import Switchboard
from mlxk.workers.protocol import (
    Abort,
    Delta,
    Deltas,
    Detokenized,
    Failed,
    Fault,
    FaultCode,
    Finished,
    FinishReason,
    FromWorker,
    Hello,
    Ping,
    Started,
    Tokenized,
    Usage,
    decode_to_worker,
    encode_from_worker,
)
from tests.unit.supervisor.aio import in_loop

GONE = Fault(FaultCode.WORKER_DIED, "gone")


class Peer:
    """A worker's end, driven by the test."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, identity: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, identity.encode())
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)

    def say(self, *messages: FromWorker) -> None:
        self.socket.send(encode_from_worker(list(messages)))

    def hear(self) -> list[object]:
        assert self.socket.poll(5000), "nothing came"
        return list(decode_to_worker(self.socket.recv()))


class Board:
    """A switchboard with some workers that have said Hello."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.context = context
        self.address = address
        self.switchboard = Switchboard(context, address)
        self.heard: asyncio.Queue[tuple[str, FromWorker]] = asyncio.Queue()
        self.idle: list[str] = []
        self.peers: list[Peer] = []

    def expect(self, identity: str) -> None:
        self.switchboard.connect_worker(
            identity,
            lambda message: self.heard.put_nowait((identity, message)),
            lambda: self.idle.append(identity),
        )

    def dial(self, identity: str) -> Peer:
        peer = Peer(self.context, self.address, identity)
        self.peers.append(peer)
        return peer

    async def worker(self, identity: str) -> Peer:
        self.expect(identity)
        peer = self.dial(identity)
        peer.say(Hello(1, "0", 1, "fake"))
        assert (await self.heard.get())[0] == identity
        return peer

    def open(self, worker_id: str, request_id: str) -> Mailbox:
        mailbox = Mailbox()
        assert self.switchboard.open(worker_id, request_id, mailbox)
        return mailbox


@contextlib.asynccontextmanager
async def make_board() -> AsyncIterator[Board]:
    with tempfile.TemporaryDirectory() as folder:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        board = Board(context, f"ipc://{Path(folder)}/s")
        try:
            yield board
        finally:
            board.switchboard.close()
            for peer in board.peers:
                peer.socket.close()
            context.term()


def finished(request_id: str) -> Finished:
    return Finished(request_id, FinishReason.STOP, Usage())


@in_loop
async def test_one_frames_deltas_reach_each_their_mailbox() -> None:
    async with make_board() as board:
        peer = await board.worker("w1")
        first, second = board.open("w1", "r1"), board.open("w1", "r2")
        peer.say(Started("r1", 1, 0, 8), Deltas([Delta("r1", "a"), Delta("r2", "b")]), finished("r1"))
        assert await first.take() == [Started("r1", 1, 0, 8), Delta("r1", "a"), finished("r1")]
        assert await second.take() == [Delta("r2", "b")]


@in_loop
async def test_every_last_word_ends_its_request() -> None:
    async with make_board() as board:
        peer = await board.worker("w1")
        boxes = {name: board.open("w1", name) for name in ("f", "t", "d", "x")}
        words = [finished("f"), Tokenized("t", [1], 9), Detokenized("d", "hi"), Failed("x", GONE)]
        peer.say(*words)
        for name, word in zip(boxes, words, strict=True):
            assert await boxes[name].take() == [word]
            assert boxes[name].ended
            assert boxes[name].settled.is_set()
        assert board.switchboard.open_requests() == 0
        assert board.idle == ["w1"]


@in_loop
async def test_a_death_fails_exactly_its_own_requests() -> None:
    async with make_board() as board:
        await board.worker("w1")
        survivor = await board.worker("w2")
        mine, other = board.open("w1", "r1"), board.open("w2", "r2")
        board.switchboard.disconnect_worker("w1", GONE)
        assert await mine.take() == [Failed("r1", GONE)]
        assert mine.settled.is_set()
        survivor.say(Deltas([Delta("r2", "on")]))
        assert await other.take() == [Delta("r2", "on")]
        assert not other.settled.is_set()


@in_loop
async def test_the_last_word_comes_once() -> None:
    async with make_board() as board:
        peer = await board.worker("w1")
        mailbox = board.open("w1", "r1")
        board.switchboard.fail_request("r1", GONE)
        peer.say(finished("r1"), Deltas([Delta("r1", "late")]), Hello(1, "again", 1, "fake"))
        await board.heard.get()
        assert await mailbox.take() == [Failed("r1", GONE)]
        assert board.switchboard.in_flight("w1") == 0


@in_loop
async def test_idle_is_told_when_the_last_request_has_ended() -> None:
    async with make_board() as board:
        peer = await board.worker("w1")
        board.open("w1", "r1")
        last = board.open("w1", "r2")
        peer.say(finished("r1"))
        peer.say(finished("r2"))
        await last.settled.wait()
        assert board.idle == ["w1"]


@in_loop
async def test_sending_to_a_stranger_says_so() -> None:
    async with make_board() as board:
        board.expect("w1")
        assert not board.switchboard.send("w1", Ping(0))  # it has not connected yet
        peer = board.dial("w1")
        peer.say(Hello(1, "0", 1, "fake"))
        await board.heard.get()
        assert board.switchboard.send("w1", Ping(1), Abort("r1"))
        assert peer.hear() == [Ping(1), Abort("r1")]


@in_loop
async def test_a_request_for_a_worker_that_is_gone_is_not_opened() -> None:
    async with make_board() as board:
        assert not board.switchboard.open("w9", "r1", Mailbox())


@in_loop
async def test_frames_of_a_ghost_and_garbage_are_dropped() -> None:
    async with make_board() as board:
        ghost = board.dial("w0")
        ghost.say(Hello(1, "0", 1, "fake"), finished("r1"))
        peer = await board.worker("w1")
        mailbox = board.open("w1", "r1")
        peer.socket.send(b"\xc1 no msgpack")
        peer.socket.send_multipart([b"too", b"many", b"parts"])
        peer.socket.send(b"")
        peer.say(finished("r1"))
        assert await mailbox.take() == [finished("r1")]


@in_loop
async def test_a_frame_that_crosses_with_a_send_is_seen_without_another_event() -> None:
    """The descriptor is edge-triggered: a send may swallow the edge of a frame that has just come."""
    async with make_board() as board:
        peer = await board.worker("w1")
        for number in range(300):
            mailbox = board.open("w1", f"r{number}")
            peer.say(finished(f"r{number}"))
            for _ in range(3):
                board.switchboard.send("w1", Ping(number))
            assert await mailbox.take(5.0) == [finished(f"r{number}")]


@in_loop
async def test_nothing_is_read_after_the_close() -> None:
    async with make_board() as board:
        await board.worker("w1")
        board.switchboard.send("w1", Ping(0))  # schedules a look at the socket
        board.switchboard.close()
        await asyncio.sleep(0)
