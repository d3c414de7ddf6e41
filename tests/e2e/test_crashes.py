"""kill -9: of a worker, of the front."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.client import TEXT, Client, text_body, wait_until
from tests.e2e.prompts import COUNT_10, COUNTED_10, ENDLESS
from tests.server import Server, add_tiny_copy, standing, wait_gone


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Only its workers are killed."""
    home = tmp_path_factory.mktemp("crashes")
    add_tiny_copy(home, "tiny-copy")
    with standing(Server(home, ["tiny", "tiny-copy"])) as server:
        yield server


def test_a_killed_worker_is_its_own_streams_end_and_nobody_else_s(server: Server) -> None:
    client = Client(server.url)
    client.wait_ready("tiny", "tiny-copy")
    with (
        client.background_text("tiny", "One, two", **ENDLESS) as tiny,
        client.background_text("tiny-copy", "One, two", **ENDLESS) as copy,
    ):
        tiny.wait_more(5)
        copy.wait_more(5)
        pid = client.pool()["tiny"]["pid"]
        os.kill(pid, signal.SIGKILL)
        answer = tiny.result(timeout_s=5)
        assert answer.error is not None
        assert (answer.error["type"], answer.error["code"]) == ("server_error", "worker_died")
        assert "SIGKILL" in answer.error["message"]
        assert answer.content
        assert (answer.finish_reason, answer.done) == (None, False)
        assert not copy.ended
        copy.wait_more(5)
        # The next request just works, in a new process, while the other stream goes on.
        reply = client.chat("tiny", COUNT_10)
        assert reply["choices"][0]["message"]["content"] == COUNTED_10
        model = client.pool()["tiny"]
        assert model["pid"] != pid
        assert (model["state"], model["restarts"]) == ("ready", 1)
        copy.wait_more(5)
        assert client.pool()["tiny-copy"]["restarts"] == 0


def test_a_killed_worker_fails_a_whole_reply_with_a_503(server: Server) -> None:
    client = Client(server.url)
    # The whole reply is asked for beside a stream that shows when the worker is at it.
    with client.background_text("tiny", "One, two", **ENDLESS) as stream:
        stream.wait_more(3)
        with client.whole(TEXT, text_body("tiny", "Three, four", **ENDLESS)) as pending:
            client.wait_pool(lambda models: models["tiny"]["in_flight"] == 2)
            os.kill(client.pool()["tiny"]["pid"], signal.SIGKILL)
            reply = pending.read()
        assert (reply.status, reply.error["code"]) == (503, "worker_died")
        assert int(reply.headers["retry-after"]) >= 1
        error = stream.result().error
        assert error is not None
        assert error["code"] == "worker_died"


def test_no_worker_survives_a_killed_front(home: Path) -> None:
    server = Server(home, ["tiny"])
    try:
        client = Client(server.url)
        with client.background_text("tiny", "One, two", **ENDLESS) as stream:
            stream.wait_more(3)
            # The worker and the spare, which is still importing or warm.
            workers = wait_until(lambda: len(pids := server.worker_pids()) == 2 and pids)
            server.signal(signal.SIGKILL)
            assert server.wait() == -signal.SIGKILL
            # Milliseconds, where they get a core; who did not notice would stay for a minute.
            assert wait_gone(workers, timeout_s=10) == []
            answer = stream.result()
            assert (answer.done, answer.finish_reason) == (False, None)
        assert server.cli("ps").returncode == 3
    finally:
        server.close()
    # The next server finds what the killed one has left, and clears it away.
    again = Server(home, env={"MLXK_ENGINE": "fake"})
    try:
        assert not Path(server.control_path).parent.exists()
        assert Client(again.url).get("/ready").status == 200
    finally:
        again.close()
