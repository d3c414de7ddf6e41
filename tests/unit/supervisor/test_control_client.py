"""The control client against a real ROUTER: answers, silence, garbage, and a server that dies meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from mlxk.config.instance import Instance, write_instance
from mlxk.supervisor.control_client import (
    ControlClient,
    ControlError,
    ControlTimeoutError,
    ServerNotRunningError,
    connect,
)
from mlxk.supervisor.control_protocol import (
    ControlFault,
    ControlProtocolError,
    ControlReply,
    ControlRequest,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    parse_models,
    parse_stop,
)

Answer = Callable[[ControlRequest], list[list[bytes]]]


@pytest.fixture
def socket_path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="mlxk-") as folder:  # short: ipc paths are limited
        yield f"{folder}/c"


@pytest.fixture
def serve(socket_path: str) -> Iterator[Callable[[Answer], list[ControlRequest]]]:
    """Starts a ROUTER in a thread; each request gets the messages that `answer` returns."""
    context = zmq.Context()
    threads: list[threading.Thread] = []
    end = threading.Event()

    def start(answer: Answer) -> list[ControlRequest]:
        seen: list[ControlRequest] = []
        bound = threading.Event()

        def loop() -> None:
            with context.socket(zmq.ROUTER) as router:
                router.setsockopt(zmq.LINGER, 0)
                router.bind(f"ipc://{socket_path}")
                bound.set()
                while not end.is_set():
                    if router.poll(20):
                        peer, frame = router.recv_multipart()
                        seen.append(decode_request(frame))
                        for message in answer(seen[-1]):
                            router.send_multipart([peer, *message])

        thread = threading.Thread(target=loop)
        thread.start()
        threads.append(thread)
        assert bound.wait(10)
        return seen

    yield start
    end.set()
    for thread in threads:
        thread.join(10)
    context.destroy(linger=0)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the server's: it ends when its stdin does."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def created(pid: int) -> float:
    return psutil.Process(pid).create_time()


def client_of_this_process(path: str) -> ControlClient:
    return ControlClient(path, os.getpid(), created(os.getpid()))


def data(request: ControlRequest, **fields: object) -> list[bytes]:
    return [encode_reply(ControlReply(request.id, data=dict(fields)))]


def test_an_answer_is_returned_and_the_arguments_arrive(serve, socket_path):
    seen = serve(lambda request: [data(request, verb=request.verb)])
    with client_of_this_process(socket_path) as client:
        assert client.call("load", {"models": ["tiny"]}, timeout_s=10) == {"verb": "load"}
        assert client.call("ps", {}, timeout_s=None) == {"verb": "ps"}
    assert [(request.verb, request.args) for request in seen] == [("load", {"models": ["tiny"]}), ("ps", {})]


def test_a_fault_is_raised_as_data(serve, socket_path):
    fault = ControlFault("model_not_found", "there is no model 'tny'", {"nearest": ["tiny"]})
    serve(lambda request: [[encode_reply(ControlReply(request.id, error=fault))]])
    with client_of_this_process(socket_path) as client, pytest.raises(ControlError) as caught:
        client.call("load", {"models": ["tny"]}, timeout_s=10)
    assert caught.value.fault == fault


def test_a_silent_server_times_out(serve, socket_path):
    serve(lambda request: [])
    with client_of_this_process(socket_path) as client, pytest.raises(ControlTimeoutError, match="ps"):
        client.call("ps", {}, timeout_s=0.3)


def test_a_late_answer_is_not_taken_for_the_next_one(serve, socket_path):
    kept: list[list[bytes]] = []

    def late(request: ControlRequest) -> list[list[bytes]]:
        kept.append(data(request, number=len(kept)))
        return [] if len(kept) == 1 else kept

    serve(late)
    with client_of_this_process(socket_path) as client:
        with pytest.raises(ControlTimeoutError):
            client.call("ps", {}, timeout_s=0.1)
        assert client.call("ps", {}, timeout_s=10) == {"number": 1}


@pytest.mark.parametrize(
    "message",
    [
        [b""],
        [b"\xc1garbage"],
        [b"\xff" * 100],
        [b"\x93\x01\x02\x03"],
        [b"\x91" * 5000],
        [b"\x81\xa2id\xa2\xff\xfe"],
        [encode_reply(ControlReply("1"))],
        [encode_reply(ControlReply("1", data={})), b"more"],
    ],
)
def test_garbage_is_an_error_and_not_a_hang(serve, socket_path, message):
    serve(lambda request: [message])
    with client_of_this_process(socket_path) as client, pytest.raises(ControlError) as caught:
        client.call("ps", {}, timeout_s=10)
    assert caught.value.fault.type == "protocol_error"


def test_the_death_of_the_server_ends_the_wait(serve, socket_path, bystander):
    def die(request: ControlRequest) -> list[list[bytes]]:
        bystander.kill()
        return []

    serve(die)
    begin = time.monotonic()
    client = ControlClient(socket_path, bystander.pid, created(bystander.pid))
    with client, pytest.raises(ServerNotRunningError, match="ended before it answered"):
        client.call("stop", {}, timeout_s=None)
    assert time.monotonic() - begin < 10


def test_a_server_that_begins_anew_ends_the_wait_although_its_process_lives(
    serve, socket_path, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLXK_HOME", str(tmp_path))
    pid = os.getpid()

    def restart(request: ControlRequest) -> list[list[bytes]]:
        os.unlink(socket_path)
        write_instance(Instance(pid, created(pid), f"{socket_path}2", "http://127.0.0.1:1", "0", ()))
        return []

    serve(restart)
    with client_of_this_process(socket_path) as client, pytest.raises(ServerNotRunningError):
        client.call("ps", {}, timeout_s=20)


def test_a_socket_file_that_a_cleaner_removed_does_not_end_the_wait(
    serve, socket_path, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLXK_HOME", str(tmp_path))
    pid = os.getpid()
    write_instance(Instance(pid, created(pid), socket_path, "http://127.0.0.1:1", "0", ()))

    def answer_late(request: ControlRequest) -> list[list[bytes]]:
        os.unlink(socket_path)
        time.sleep(0.6)  # longer than the client looks whether the server lives
        return [data(request)]

    serve(answer_late)
    with client_of_this_process(socket_path) as client:
        assert client.call("ps", {}, timeout_s=20) == {}


def test_a_server_that_dies_after_its_answer_has_answered(serve, socket_path, bystander):
    def answer_and_die(request: ControlRequest) -> list[list[bytes]]:
        bystander.kill()
        bystander.wait()
        return [data(request, models=[])]

    serve(answer_and_die)
    with ControlClient(socket_path, bystander.pid, created(bystander.pid)) as client:
        assert client.call("stop", {}, timeout_s=None) == {"models": []}


def test_a_pid_that_was_used_again_is_no_server(socket_path):
    with ControlClient(socket_path, os.getpid(), created(os.getpid()) - 3600) as client:
        assert not client.is_server_alive()
        with pytest.raises(ServerNotRunningError):
            client.call("ps", {}, timeout_s=None)


def test_wait_gone_returns_when_the_process_has_ended_even_unreaped(socket_path, bystander):
    with ControlClient(socket_path, bystander.pid, created(bystander.pid)) as client:
        assert not client.wait_gone(timeout_s=0.1)
        bystander.kill()  # a zombie from here on, until the fixture reaps it
        assert client.wait_gone(timeout_s=10)


def test_connect_without_an_instance_file_says_that_no_server_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXK_HOME", str(tmp_path))
    with pytest.raises(ServerNotRunningError):
        connect()


def test_connect_finds_the_server_of_the_instance_file(serve, socket_path, tmp_path, monkeypatch):
    monkeypatch.setenv("MLXK_HOME", str(tmp_path))
    pid = os.getpid()
    write_instance(Instance(pid, created(pid), socket_path, "http://127.0.0.1:1", "0", ("mlxk", "serve")))
    serve(lambda request: [data(request)])
    with connect() as client:
        assert client.call("ping", {}, timeout_s=10) == {}


def test_a_client_leaves_no_socket_file(serve, socket_path):
    serve(lambda request: [data(request)])
    before = set(Path(socket_path).parent.iterdir())
    with client_of_this_process(socket_path) as client:
        client.call("ping", {}, timeout_s=10)
    assert set(Path(socket_path).parent.iterdir()) == before


def test_requests_and_replies_survive_the_wire():
    request = ControlRequest("1", "stop", {"models": ["a"], "timeout_s": 1.5})
    assert decode_request(encode_request(request)) == request
    reply = ControlReply("1", error=ControlFault("deadline_exceeded", "too late"))
    assert decode_reply(encode_reply(reply)) == reply


def test_a_field_of_a_newer_peer_is_ignored():
    assert parse_models({"models": ["a"], "colour": "blue"}).models == ["a"]


@pytest.mark.parametrize("args", [{"models": "tiny"}, {"now": 1}, {"timeout_s": "soon"}, {"models": [1]}])
def test_wrong_arguments_are_named(args):
    with pytest.raises(ControlProtocolError, match=next(iter(args))):
        parse_stop(args)


@pytest.mark.parametrize("frame", [b"", b"\x00", b"\x81\xa2id\x01", b"\x92" * 9000, bytes(range(192, 256))])
def test_an_undecodable_request_is_a_protocol_error(frame):
    with pytest.raises(ControlProtocolError):
        decode_request(frame)
