"""Server-sent events: their order, their ends, and what happens while nothing comes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.api.client import CHAT, TEXT, Client, chat_body
from tests.api.streams import Answer
from tests.server import Server, add_fake_model

WORDS = "w0 w1 w2 w3"


def test_a_chat_stream_has_role_content_and_one_final_chunk(client: Client) -> None:
    answer = client.stream_chat("tiny", "Hi", max_tokens=4)
    assert answer.kinds[0] == "role"
    assert answer.kinds[-1] == "final"
    assert set(answer.kinds[1:-1]) == {"content"}
    assert (answer.roles, answer.content, answer.done) == (1, WORDS, True)
    assert answer.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage["completion_tokens"] == 4
    assert answer.usage["total_tokens"] == answer.usage["prompt_tokens"] + 4


def test_a_text_stream_has_no_role(client: Client) -> None:
    answer = client.stream_text("tiny", "Hi", max_tokens=4)
    assert (answer.roles, answer.content, answer.done) == (0, WORDS, True)
    assert answer.kinds[-1] == "final"
    assert answer.usage is not None


@pytest.mark.parametrize(
    ("path", "prompt"), [(CHAT, {"messages": [{"role": "user", "content": "Hi"}]}), (TEXT, {"prompt": "Hi"})]
)
def test_the_chunks_of_a_stream_share_their_head(
    client: Client, path: str, prompt: dict[str, object]
) -> None:
    with client.stream(path, {"model": "tiny", "max_tokens": 3, **prompt}) as stream:
        events = list(stream)
        assert stream.done
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-cache"
        assert stream.headers["x-accel-buffering"] == "no"
    kind = "chat.completion.chunk" if path == CHAT else "text_completion"
    assert {event["object"] for event in events} == {kind}
    assert {event["model"] for event in events} == {"tiny"}
    assert len({(event["id"], event["created"]) for event in events}) == 1
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * (len(events) - 1)


def test_the_stream_equals_the_reply(client: Client) -> None:
    whole = client.chat("tiny", "Same", max_tokens=9)["choices"][0]
    answer = client.stream_chat("tiny", "Same", max_tokens=9)
    assert answer.content == whole["message"]["content"]
    assert answer.finish_reason == whole["finish_reason"]


def test_include_usage_adds_openai_s_extra_chunk(client: Client) -> None:
    body = chat_body("tiny", "Hi", max_tokens=2, stream_options={"include_usage": True})
    with client.stream(CHAT, body) as stream:
        events = list(stream)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 2
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert [bool(event["choices"]) for event in events].count(False) == 1


def test_without_include_usage_every_chunk_has_a_choice(client: Client) -> None:
    with client.stream(CHAT, chat_body("tiny", "Hi", max_tokens=2)) as stream:
        assert all(event["choices"] for event in stream)


# --------------------------------------------------------------------------- failures


def test_a_load_that_fails_is_a_503_also_for_a_stream(home: Path) -> None:
    add_fake_model(home, "broken", load_fails=True)
    server = Server(home, env={"MLXK_ENGINE": "fake"})
    try:
        for stream in (False, True):
            reply = Client(server.url).post(CHAT, chat_body("broken", "Hi", stream=stream))
            assert reply.status == 503
            assert reply.error["code"] in ("model_load_failed", "model_failed")
            assert int(reply.headers["retry-after"]) >= 1
    finally:
        server.close()


def busy_pid(models: dict[str, dict[str, Any]], name: str) -> int | None:
    """Of the process that works on a request for it."""
    model = models.get(name, {"in_flight": 0})
    return model["pid"] if model["in_flight"] else None


def test_a_crash_in_the_middle_is_an_error_event_and_no_done(home: Path) -> None:
    """By a signal when its first words are here: what a dying process has not sent yet dies with it."""
    add_fake_model(home, "fragile", step_s=0.05)
    server = Server(home, env={"MLXK_ENGINE": "fake"})
    try:
        client = Client(server.url)
        with client.stream(CHAT, chat_body("fragile", "Hi", max_tokens=4000)) as stream:
            answer = Answer()
            answer.add(stream.first_content())
            pid = client.pool()["fragile"]["pid"]
            os.kill(pid, signal.SIGSEGV)
            for event in stream:
                answer.add(event)
        assert answer.content.startswith("w0")
        assert answer.error is not None
        assert (answer.error["type"], answer.error["code"]) == ("server_error", "worker_died")
        assert set(answer.error) == {"message", "type", "param", "code"}
        assert (stream.done, answer.finish_reason) == (False, None)
        # Not streamed, the same is a status that says when to come again.
        with client.whole(CHAT, chat_body("fragile", "Hi", max_tokens=4000)) as pending:
            again = client.wait_pool(lambda models: busy_pid(models, "fragile") not in (None, pid) and models)
            os.kill(again["fragile"]["pid"], signal.SIGSEGV)
            reply = pending.read()
        assert (reply.status, reply.error["code"]) == (503, "worker_died")
        assert int(reply.headers["retry-after"]) >= 1
    finally:
        server.close()


# ----------------------------------------------------------------------------- silence

QUICK = """
import sys
if "serve" in sys.orig_argv:
    import mlxk.api.streaming
    mlxk.api.streaming.COMMENT_AFTER_S = 0.2
"""
"""A sitecustomize for the server's process: ten seconds are too long for a test."""


@pytest.fixture
def quick_env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(QUICK, encoding="utf-8")
    path = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"MLXK_ENGINE": "fake", "PYTHONPATH": os.pathsep.join(path)}


def test_comment_lines_come_while_a_model_loads(home: Path, quick_env: dict[str, str]) -> None:
    add_fake_model(home, "slow", load_s=1.5)
    add_fake_model(home, "hopeless", load_s=1.0, load_fails=True)
    server = Server(home, env=quick_env)
    try:
        client = Client(server.url)
        with client.stream(CHAT, chat_body("slow", "Hi", max_tokens=2)) as stream:
            answer = stream.collect()
            # Four or more in a second and a half; a front that stood still for a second has said two.
            assert len(stream.comments) >= 2
        assert (answer.content, answer.roles, answer.done) == ("w0 w1", 1, True)
        # After the first comment the status is on its way: a failure is an event then.
        with client.stream(CHAT, chat_body("hopeless", "Hi")) as stream:
            answer = stream.collect()
            assert stream.comments
        assert answer.error is not None
        assert answer.error["code"] == "model_load_failed"
        assert (answer.done, answer.roles) == (False, 0)
    finally:
        server.close()
