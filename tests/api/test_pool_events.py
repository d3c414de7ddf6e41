"""GET /pool/events against a real server."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.process.watch import until
from tests.server import Server, add_fake_model, standing

KEY = "a-key-of-the-tests"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("events")
    add_fake_model(home, "slowly", load_s=1.2)
    with standing(Server(home, env={"MLXK_ENGINE": "fake", "MLXK_SPARE": "0"})) as server:
        yield server


class Stream:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response

    def lines(self) -> Iterator[str]:
        while line := self.response.readline():
            yield line.decode().rstrip("\n")

    def events(self) -> Iterator[dict[str, Any]]:
        for line in self.lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])


@contextmanager
def listening(server: Server, query: str = "", **headers: str) -> Iterator[Stream]:
    address = urlsplit(server.url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    connection.request("GET", f"/pool/events{query}", headers=headers)
    response = connection.getresponse()
    try:
        yield Stream(response)
    finally:
        response.close()
        connection.close()


def listeners(server: Server) -> int:
    return int(server.call("counts")["listeners"])


def test_a_load_is_told_with_its_progress(server: Server) -> None:
    with listening(server) as stream:
        assert stream.response.status == 200
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert next(stream.lines()).startswith(": ")
        server.call("load", {"models": ["slowly"]})
        kinds: list[str] = []
        for event in stream.events():
            assert {"n", "time", "kind", "model"} <= set(event)
            kinds.append(event["kind"])
            if event["kind"] == "loaded":
                break
        assert kinds.count("load_progress") >= 2
        assert kinds.count("load_progress") <= 6  # of a hundred that the worker told
    server.call("stop", {"models": ["slowly"]})
    until(lambda: listeners(server) == 0)


def test_the_past_can_be_had_by_number_and_by_count(server: Server) -> None:
    server.call("load", {"models": ["tiny"]})
    with listening(server, "?recent=2") as stream:
        events = stream.events()
        first, second = next(events), next(events)
    with listening(server, **{"Last-Event-ID": str(first["n"])}) as stream:
        assert next(stream.events())["n"] == second["n"]
    with listening(server, "?recent=1", **{"Last-Event-ID": "no number"}) as stream:
        assert next(stream.events())["n"] == second["n"]


@pytest.mark.parametrize("query", ["?recent=-1", "?recent=x", "?recent=1000000"])
def test_a_wrong_count_is_a_400_that_names_it(server: Server, query: str) -> None:
    with listening(server, query) as stream:
        assert stream.response.status == 400
        assert json.loads(stream.response.read())["error"]["param"] == "recent"


def test_clients_that_leave_leave_nothing(server: Server) -> None:
    front = psutil.Process(server.pid)
    server.ps()
    until(lambda: listeners(server) == 0)
    before = front.num_fds(), server.call("counts")["tasks"]
    for _ in range(100):
        with listening(server) as stream:
            assert stream.response.status == 200
    until(lambda: listeners(server) == 0)
    until(lambda: (front.num_fds(), server.call("counts")["tasks"]) <= before)


def test_the_key_opens_this_door_too(tmp_path: Path) -> None:
    server = Server(tmp_path, env={"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_API_KEY": KEY})
    try:
        with listening(server) as stream:
            assert stream.response.status == 401
        with listening(server, Authorization=f"Bearer {KEY}") as stream:
            assert stream.response.status == 200
    finally:
        server.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stream_ends_cleanly_with_the_server(tmp_path: Path, number: int) -> None:
    server = Server(tmp_path, env={"MLXK_ENGINE": "fake", "MLXK_SPARE": "0"})
    try:
        with listening(server) as stream:
            next(stream.lines())
            server.signal(number)
            events = list(stream.events())  # a stream that is cut would raise IncompleteRead
            assert (events[-1]["kind"], events[-1]["state"]) == ("server", "closing")
            assert server.wait(10) == (130 if number == signal.SIGINT else 0)
    finally:
        server.close()


def test_the_document_describes_the_stream(server: Server) -> None:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    connection.request("GET", "/openapi.json")
    document = json.loads(connection.getresponse().read())
    connection.close()
    answer = document["paths"]["/pool/events"]["get"]["responses"]["200"]
    assert "data: {" in answer["content"]["text/event-stream"]["example"]
