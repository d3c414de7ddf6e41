"""The HTTP client against streams that are cut, broken, wrong or refused."""

from __future__ import annotations

import json
import socket

import pytest

from mlxk.cli import completions
from mlxk.cli.completions import ReplyPart, reachable, stream_reply
from mlxk.cli.errors import CliError
from tests.unit.cli.http_stub import HEAD, LAST, answer, chunk, delta, event, http_stub

USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
GOOD = [
    delta(role="assistant"),
    b": loading\n\n",
    delta(reasoning_content="hm"),
    delta(content="Hé"),
    delta(content=" 🙂"),
    delta("stop", USAGE),
    event({"choices": [], "usage": USAGE}),
    event("[DONE]"),
]


def read(pieces: list[bytes], **options: str) -> list[ReplyPart]:
    with http_stub(pieces) as stub:
        return list(
            stream_reply(stub.url, "/v1/chat/completions", {"model": "tiny"}, api_key=None, **options)
        )


def text(parts: list[ReplyPart]) -> str:
    return "".join(part.content for part in parts)


def failure(pieces: list[bytes]) -> CliError:
    with pytest.raises(CliError) as caught:
        read(pieces)
    return caught.value


def test_a_good_stream_gives_its_parts():
    parts = read([HEAD, *map(chunk, GOOD), LAST])
    assert text(parts) == "Hé 🙂"
    assert "".join(part.reasoning for part in parts) == "hm"
    assert [part.finish_reason for part in parts if part.finish_reason] == ["stop"]
    assert parts[-1].usage == USAGE


def test_characters_split_across_chunks_and_writes_stay_whole():
    stream = b"".join(GOOD)
    pieces = [chunk(bytes([byte])) for byte in stream]
    assert text(read([HEAD, *pieces, LAST])) == "Hé 🙂"


def test_the_request_carries_the_body_the_key_and_no_proxy(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with http_stub([HEAD, *map(chunk, GOOD), LAST]) as stub:
        list(stream_reply(stub.url, "/v1/completions", {"model": "tiny", "prompt": "é"}, api_key="secret"))
    assert stub.path == "/v1/completions"
    assert stub.body == {"model": "tiny", "prompt": "é", "stream": True}
    assert stub.headers["authorization"] == "Bearer secret"


def test_text_completions_are_read_too():
    pieces = [event({"choices": [{"text": "1\n2", "finish_reason": None}]}), delta("length"), event("[DONE]")]
    parts = read([HEAD, *map(chunk, pieces), LAST])
    assert (text(parts), parts[-1].finish_reason) == ("1\n2", "length")


def test_an_error_event_keeps_its_type():
    error = {"error": {"message": "the worker died", "type": "server_error", "code": "worker_died"}}
    caught = failure([HEAD, chunk(delta(content="Hi")), chunk(event(error)), LAST])
    assert (caught.type, caught.message) == ("worker_died", "the worker died")


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD, chunk(delta(content="Hi"))],  # the connection drops between two chunks
        [HEAD, chunk(delta(content="Hi")), b"40\r\ndata: {"],  # and within one
        [HEAD, chunk(delta(content="Hi")), LAST],  # a proper end, but no end of the reply
        [HEAD, LAST],
        [b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 5\r\n\r\nhello"],
        [b""],
        [b"HTTP/1.1 200"],
        [b"\x00\x01\x02 not HTTP at all\r\n\r\n"],
    ],
)
def test_a_stream_that_breaks_is_not_taken_for_a_reply(pieces):
    assert failure(pieces).type == "connection_lost"


def test_a_reply_that_was_whole_before_the_connection_dropped_is_a_reply():
    assert text(read([HEAD, *map(chunk, GOOD[:-2])])) == "Hé 🙂"


@pytest.mark.parametrize("payload", ["{", "42", '"text"', "null", "[" * 100_000])
def test_an_event_that_is_no_object_is_a_protocol_error(payload):
    assert failure([HEAD, chunk(event(payload)), LAST]).type == "protocol_error"


@pytest.mark.parametrize(
    "payload",
    [
        {"choices": 3},
        {"choices": [None]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": 5}}]},
    ],
)
def test_odd_shapes_are_skipped(payload):
    pieces = [event(payload), delta(content="x"), delta("stop"), event("[DONE]")]
    assert text(read([HEAD, *map(chunk, pieces), LAST])) == "x"


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        ("404 Not Found", "model_not_found", 4),
        ("400 Bad Request", "ambiguous_model", 4),
        ("503 Service Unavailable", "insufficient_memory", 6),
        ("504 Gateway Timeout", "deadline_exceeded", 5),
        ("429 Too Many Requests", "queue_full", 1),
    ],
)
def test_a_refusal_keeps_its_code_and_message(status, code, exit_code):
    body = {
        "error": {"message": "no: because", "type": "invalid_request_error", "param": "model", "code": code}
    }
    caught = failure(answer(status, json.dumps(body).encode()))
    assert (caught.type, caught.message, caught.exit_code) == (code, "no: because", exit_code)
    assert caught.details == {"param": "model", "status": int(status[:3])}


@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b"[]", b'{"error": null}', b"\xff\xfe"])
def test_a_refusal_without_an_envelope_still_says_something(body):
    caught = failure(answer("502 Bad Gateway", body))
    assert caught.details["status"] == 502
    assert caught.message


def test_a_missing_key_says_how_to_give_one():
    caught = failure(answer("401 Unauthorized", b'{"error": {"message": "no key"}}'))
    assert caught.type == "unauthorized"
    assert "MLXK_API_KEY" in caught.message


def test_a_redirect_is_not_followed():
    pieces = [
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://example.com/\r\ncontent-length: 0\r\n\r\n"
    ]
    assert failure(pieces).details == {"status": 307}


def test_nobody_there_is_a_server_that_does_not_run():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(CliError) as caught:
        list(stream_reply(url, "/v1/completions", {}, api_key=None))
    assert caught.value.type == "server_not_running"


def test_a_server_that_falls_silent_times_out(monkeypatch):
    monkeypatch.setattr(completions, "SILENCE_LIMIT_S", 0.3)
    with http_stub([HEAD, chunk(delta(content="Hi"))], stay=True) as stub:
        with pytest.raises(CliError) as caught:
            list(stream_reply(stub.url, "/v1/completions", {}, api_key=None))
        assert stub.client_left.wait(10)
    assert caught.value.type == "timed_out"


def test_closing_the_iterator_closes_the_connection():
    with http_stub([HEAD, chunk(delta(content="Hi"))], stay=True) as stub:
        parts = stream_reply(stub.url, "/v1/completions", {}, api_key=None)
        assert next(parts).content == "Hi"
        parts.close()
        assert stub.client_left.wait(10)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("http://[::]:8000/", "http://[::1]:8000"),
        ("http://192.168.0.7:8000", "http://192.168.0.7:8000"),
    ],
)
def test_a_server_on_every_address_is_asked_on_loopback(url, expected):
    assert reachable(url) == expected
