"""Streams over the control socket: paid for by the reader, and gone when he is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
import zmq

from mlxk.supervisor import control_streams
from mlxk.supervisor.control import ControlSocket
from mlxk.supervisor.control_client import ControlClient, ControlError
from mlxk.supervisor.control_protocol import ControlRequest, decode_reply, encode_request
from mlxk.supervisor.events import BACKLOG_EVENTS, EventBus, EventKind
from mlxk.supervisor.run_dir import make_run_dir
from tests.unit.supervisor.aio import in_loop


class Served:
    """What the control socket needs of a service for events."""

    def __init__(self) -> None:
        self.events = EventBus()


@contextlib.asynccontextmanager
async def control_socket() -> AsyncIterator[tuple[str, EventBus, ControlSocket]]:
    folder = make_run_dir()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    service: Any = Served()
    control = ControlSocket(context, f"ipc://{folder}/c", service)
    try:
        yield f"{folder}/c", service.events, control
    finally:
        await control.close()
        context.term()
        shutil.rmtree(folder)


def client_of(path: str) -> ControlClient:
    return ControlClient(path, os.getpid(), psutil.Process().create_time())


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 - a counter has no event
        await asyncio.sleep(0.005)


@in_loop
async def test_past_and_coming_events_arrive_and_the_end_is_told() -> None:
    async with control_socket() as (path, bus, control):
        bus.emit(EventKind.STATE, model="old")
        bus.emit(EventKind.STATE, model="past")

        def listen() -> list[dict[str, Any] | None]:
            with client_of(path) as client:
                return list(client.stream("events", {"recent": 1}))

        listening = asyncio.create_task(asyncio.to_thread(listen))
        await until(lambda: bus.n_listeners == 1)
        for name in ("a", "b"):
            bus.emit(EventKind.STATE, model=name)
            await asyncio.sleep(0.01)
        await control.close()
        replies = [reply for reply in await listening if reply is not None]
        models = [event["model"] for reply in replies for event in reply["events"]]
        assert models == ["past", "a", "b"]
        assert replies[-1]["ended"] is True
        assert bus.n_listeners == 0


@in_loop
async def test_without_following_there_is_one_answer() -> None:
    async with control_socket() as (path, bus, _):
        bus.emit(EventKind.STATE, model="past")
        with client_of(path) as client:
            ask = lambda: list(client.stream("events", {"recent": 5, "follow": False}))  # noqa: E731
            [reply] = [one for one in await asyncio.to_thread(ask) if one]
        assert [event["model"] for event in reply["events"]] == ["past"]
        assert bus.n_listeners == 0


@in_loop
async def test_wrong_arguments_are_a_fault_that_names_them() -> None:
    async with control_socket() as (path, _, _):
        with client_of(path) as client, pytest.raises(ControlError, match="recent"):
            await asyncio.to_thread(lambda: list(client.stream("events", {"recent": "all"})))


@in_loop
async def test_a_client_that_says_so_is_gone_at_once() -> None:
    async with control_socket() as (path, bus, control):

        def listen() -> None:
            with client_of(path) as client, contextlib.closing(client.stream("events", {})) as replies:
                next(replies)

        await asyncio.to_thread(listen)
        await until(lambda: bus.n_listeners == 0 and not control._streams)


@in_loop
async def test_clients_that_vanish_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DEALER's death is told by nobody: the next sign of life finds it out."""
    monkeypatch.setattr(control_streams, "ALIVE_S", 0.05)
    async with control_socket() as (path, bus, control):
        before = len(os.listdir("/dev/fd")), len(asyncio.all_tasks())
        for round_ in range(4):
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            sockets = []
            for number in range(25):
                dealer = context.socket(zmq.DEALER)
                dealer.connect(f"ipc://{path}")
                dealer.send(encode_request(ControlRequest(f"{round_}.{number}", "events")))
                sockets.append(dealer)
            await until(lambda: bus.n_listeners == 25)
            if round_ % 2:
                bus.emit(EventKind.STATE)
            for dealer in sockets:
                dealer.close(linger=0)
            await asyncio.to_thread(context.term)
            await until(lambda: bus.n_listeners == 0)
        await until(lambda: not control._streams)
        await until(lambda: (len(os.listdir("/dev/fd")), len(asyncio.all_tasks())) == before)


@in_loop
async def test_a_client_that_never_reads_costs_one_bounded_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_streams, "ALIVE_S", 0.001)  # thousands of signs of life are bounded, too
    async with control_socket() as (path, bus, _):
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.RCVHWM, 10)
        dealer.connect(f"ipc://{path}")
        dealer.send(encode_request(ControlRequest("1", "events")))
        await until(lambda: bus.n_listeners == 1)
        [listener] = bus._listeners
        for _ in range(20):
            for _ in range(1000):
                bus.emit(EventKind.STATE, model="x" * 100)
            await asyncio.sleep(0.02)
        assert len(listener._backlog) == BACKLOG_EVENTS
        # Still there, and it gets what there is when it reads again.
        reply = decode_reply((await asyncio.to_thread(dealer.recv_multipart))[0])
        assert reply.more
        dealer.send(encode_request(ControlRequest("1", "more")))
        seen: list[str] = []
        while "lost" not in seen:
            [frame] = await asyncio.to_thread(dealer.recv_multipart)
            seen += [event["kind"] for event in (decode_reply(frame).data or {})["events"]]
        assert seen.count("state") == BACKLOG_EVENTS
        dealer.close(linger=0)
        context.term()


@in_loop
async def test_words_about_an_unknown_stream_are_passed_over() -> None:
    async with control_socket() as (path, bus, _):
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.connect(f"ipc://{path}")
        for verb in ("more", "cancel", "more"):
            dealer.send(encode_request(ControlRequest("nobody", verb)))
        dealer.send(encode_request(ControlRequest("1", "events", {"follow": False})))
        [frame] = await asyncio.to_thread(dealer.recv_multipart)
        assert decode_reply(frame).id == "1"
        dealer.close(linger=0)
        context.term()
        assert bus.n_listeners == 0
