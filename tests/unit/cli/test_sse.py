"""The event reader, with streams cut anywhere."""

from __future__ import annotations

import pytest

from mlxk.cli.sse import MAX_EVENT_BYTES, EventReader, EventTooLongError

STREAM = (
    "\ufeff: welcome\n\n"
    'data: {"a": "héllo 🙂 你好"}\n\n'
    "event: message\nid: 7\nretry: 10\ndata: one\ndata:two\ndata:  three\n\n"
    ": loading 40 %\n\n"
    "data\n\n"
    "\n\n"
    "data: crlf\r\n\r\n"
    "data: cr\r\r"
    "nonsense\n"
    "data: [DONE]\n\n"
    "data: never ended"
).encode()
EVENTS = ['{"a": "héllo 🙂 你好"}', "one\ntwo\n three", "", "crlf", "cr", "[DONE]"]


def read(*pieces: bytes) -> list[str]:
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)]


def test_a_whole_stream_at_once():
    assert read(STREAM) == EVENTS


def test_byte_by_byte():
    assert read(*(bytes([byte]) for byte in STREAM)) == EVENTS


@pytest.mark.parametrize("size", [2, 3, 5, 7, 11])
def test_in_pieces(size):
    assert read(*(STREAM[at : at + size] for at in range(0, len(STREAM), size))) == EVENTS


def test_cut_in_two_anywhere():
    for at in range(len(STREAM) + 1):
        assert read(STREAM[:at], b"", STREAM[at:]) == EVENTS, at


def test_bytes_that_are_no_text_are_replaced_and_not_an_exception():
    assert read(b"data: a\xff\xc3\n\n") == ["a\ufffd\ufffd"]


def test_an_event_without_end_is_given_up():
    with pytest.raises(EventTooLongError):
        read(*[b"x" * 65536] * (MAX_EVENT_BYTES // 65536 + 2))


def test_heartbeats_without_end_are_no_long_event():
    reader = EventReader()
    comment = b": " + b"x" * 65534 + b"\n"
    for _ in range(MAX_EVENT_BYTES // 65536 + 2):
        assert reader.feed(comment) == []
    assert reader.feed(b"data: x\n\n") == ["x"]
