"""`request_timeout`: a request that takes too long ends with a word, and its work with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.api.client import Client
from tests.process.client import Request
from tests.server import Server, add_fake_model, standing

FOREVER = 10_000_000
ATTEMPTS = 60
"""The limit is so short that the tests are quick, and that an honest request may miss it: its model may load
for longer, and any process may stand still for a second. Such a one asks again."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("home")
    add_fake_model(home, "slow", step_s=0.01)
    add_fake_model(home, "prefill", prefill_steps=100_000, prefill_step_s=0.01)
    add_fake_model(home, "load", load_s=600)
    add_fake_model(home, "ordered", load_s=2)
    env = {"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_MAX_BATCH": "2", "MLXK_REQUEST_TIMEOUT": "1s"}
    with standing(Server(home, env=env)) as running:
        yield running


def assert_free(server: Server, model: str) -> None:
    server.wait_for(lambda models: models.get(model, {"in_flight": 0, "queued": 0})["in_flight"] == 0)
    server.wait_for(lambda models: models.get(model, {"in_flight": 0, "queued": 0})["queued"] == 0)


@contextmanager
def in_time(server: Server, model: str, *, words: int, stream: bool = False) -> Iterator[Request]:
    """One that is answered: whole, or by its first token."""
    for _ in range(ATTEMPTS):
        with Request(server, model, words=words, stream=stream) as request:
            if request.status == 200:
                yield request
                return
            assert request.error()["code"] == "deadline_exceeded"
    raise AssertionError(f"{model} was never quick enough")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize("model", ["prefill", "load"])
def test_before_the_first_token_it_is_a_503(server: Server, model: str, stream: bool) -> None:
    with Request(server, model, words=FOREVER, stream=stream) as request:
        assert request.status == 503
        assert request.response.getheader("Retry-After")
        error = request.error()
        assert error["code"] == "deadline_exceeded"
        assert "request_timeout" in error["message"]
        assert_free(server, model)


def test_a_whole_reply_that_is_not_finished_in_time_is_a_503(server: Server) -> None:
    with Request(server, "slow", words=FOREVER) as request:
        assert request.error()["code"] == "deadline_exceeded"
        assert_free(server, "slow")


def test_after_the_first_token_it_is_an_event_and_the_end(server: Server) -> None:
    with in_time(server, "slow", words=FOREVER, stream=True) as request:
        *texts, last = request.events()
        assert texts
        assert last["error"]["code"] == "deadline_exceeded"
        assert request.response.read() in (b"", b"\n")
        assert_free(server, "slow")


def test_several_choices_end_together(server: Server) -> None:
    with Request(server, "slow", words=FOREVER, n=2) as request:
        assert request.error()["code"] == "deadline_exceeded"
        assert_free(server, "slow")


def test_who_waits_in_the_queue_ends_too(server: Server) -> None:
    with Request(server, "slow", words=FOREVER, n=2), Request(server, "slow", words=FOREVER) as queued:
        assert queued.error()["code"] == "deadline_exceeded"
    assert_free(server, "slow")


def test_a_load_that_is_asked_for_takes_its_time(server: Server) -> None:
    """It has its own limits (no progress; waiting for room). Else a model that loads longer than requests may
    take could not be had at all."""
    reply = Client(server.url).post("/pool/ordered/load")
    assert reply.status == 200
    assert reply.json()["load_s"] > 1
    with in_time(server, "ordered", words=2) as request:
        assert request.text() == "w0 w1"


def test_who_is_quick_enough_notices_nothing(server: Server) -> None:
    with in_time(server, "slow", words=3) as request:
        assert request.text() == "w0 w1 w2"
