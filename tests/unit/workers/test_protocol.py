"""Every message survives the wire, also to and from a peer that is a little older or newer."""

from __future__ import annotations

import contextlib
import inspect
import types
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxk.workers import protocol
from mlxk.workers.protocol import (
    Delta,
    Deltas,
    Fault,
    FaultCode,
    Generate,
    Loaded,
    ProtocolError,
    Sampling,
    TokenLogprob,
    ToolCall,
    TopLogprob,
    decode_from_worker,
    decode_to_worker,
    encode_from_worker,
    encode_to_worker,
)

TO_WORKER = get_args(protocol.ToWorker)
FROM_WORKER = get_args(protocol.FromWorker)
STRUCTS = [
    struct
    for _, struct in inspect.getmembers(protocol, inspect.isclass)
    if issubclass(struct, msgspec.Struct) and struct is not msgspec.Struct
]

text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2)
)


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    if kind is Any:
        return values
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return st.one_of([of_type(argument) for argument in arguments])
    if origin is list:
        return st.lists(of_type(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(of_type(arguments[0]), of_type(arguments[1]), max_size=3)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return struct(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: text,
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        bytes: st.binary(max_size=4),
        type(None): st.none(),
    }
    return simple[kind]


def struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind)
    return st.builds(kind, **{name: of_type(hints[name]) for name in kind.__struct_fields__})


@pytest.mark.parametrize("kind", TO_WORKER, ids=lambda kind: kind.__name__)
@settings(max_examples=30)
@given(data=st.data())
def test_every_message_to_a_worker_arrives_as_it_was_sent(kind: type[Any], data: st.DataObject) -> None:
    messages = data.draw(st.lists(struct(kind), max_size=3))
    assert decode_to_worker(encode_to_worker(messages)) == messages


@pytest.mark.parametrize("kind", FROM_WORKER, ids=lambda kind: kind.__name__)
@settings(max_examples=30)
@given(data=st.data())
def test_every_message_from_a_worker_arrives_as_it_was_sent(kind: type[Any], data: st.DataObject) -> None:
    messages = data.draw(st.lists(struct(kind), max_size=3))
    assert decode_from_worker(encode_from_worker(messages)) == messages


@pytest.mark.parametrize("kind", [*TO_WORKER, *FROM_WORKER], ids=lambda kind: kind.__name__)
@settings(max_examples=15)
@given(data=st.data())
def test_fields_of_a_newer_peer_are_ignored(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(struct(kind))
    newer = {
        **msgspec.to_builtins(message, str_keys=False, builtin_types=[bytes]),
        "a_field_of_tomorrow": {"x": [1]},
    }
    frame = msgspec.msgpack.encode([newer])
    decode = decode_to_worker if kind in TO_WORKER else decode_from_worker
    assert decode(frame) == [message]


@pytest.mark.parametrize("kind", [*TO_WORKER, *FROM_WORKER], ids=lambda kind: kind.__name__)
@settings(max_examples=10)
@given(data=st.data())
def test_fields_that_an_older_peer_lacks_are_defaulted(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(struct(kind))
    decode = decode_to_worker if kind in TO_WORKER else decode_from_worker
    for name in optional_fields(kind):
        older = msgspec.to_builtins(message, str_keys=False, builtin_types=[bytes])
        del older[name]
        (decoded,) = decode(msgspec.msgpack.encode([older]))
        assert getattr(decoded, name) == default_of(kind, name)
        assert msgspec.structs.replace(decoded, **{name: getattr(message, name)}) == message


def optional_fields(kind: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind) if not field.required]


def default_of(kind: type[msgspec.Struct], name: str) -> Any:
    field = next(field for field in msgspec.structs.fields(kind) if field.name == name)
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
def test_structs_are_frozen_and_new_fields_can_only_follow_required_ones(kind: type[msgspec.Struct]) -> None:
    assert kind.__struct_config__.frozen
    required = [field.required for field in msgspec.structs.fields(kind)]
    assert required == sorted(required, reverse=True)


def test_a_delta_of_a_newer_or_older_peer_decodes() -> None:
    """Deltas are arrays: what is appended is ignored, what is missing at the end is defaulted."""
    likely = [7, b"x", -0.5, [[7, b"x", -0.5, "new"], [8, b"\xf0", -1.5]], "new"]
    long = [{"type": "deltas", "items": [["a", "x", "", [["c", "f", "{}", "new"]], 2, [likely], "new", 5]]}]
    (decoded,) = decode_from_worker(msgspec.msgpack.encode(long))
    top = [TopLogprob(7, b"x", -0.5), TopLogprob(8, b"\xf0", -1.5)]
    expected = Delta("a", "x", "", [ToolCall("c", "f", "{}")], 2, [TokenLogprob(7, b"x", -0.5, top)])
    assert decoded == Deltas([expected])
    older = [{"type": "deltas", "items": [["a", "x", "", [], 2]]}]
    (decoded,) = decode_from_worker(msgspec.msgpack.encode(older))
    assert decoded == Deltas([Delta("a", "x", "", [], 2)])
    (decoded,) = decode_from_worker(msgspec.msgpack.encode([{"type": "deltas", "items": [["a"]]}]))
    assert decoded == Deltas([Delta("a")])


@given(st.binary(max_size=60))
def test_garbage_is_a_protocol_error_and_nothing_else(frame: bytes) -> None:
    for decode in (decode_to_worker, decode_from_worker):
        with contextlib.suppress(ProtocolError):
            assert isinstance(decode(frame), list)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"type": "ping", "seq": 1}),
        msgspec.msgpack.encode([{"type": "no such message"}]),
        msgspec.msgpack.encode([{"type": "ping", "seq": "one"}]),
        msgspec.msgpack.encode([{"type": "generate"}]),
        msgspec.msgpack.encode([{"type": "failed", "id": "a", "fault": {"code": "?", "message": ""}}]),
        encode_to_worker([Generate("a")])[:-3],
    ],
)
def test_wrong_frames_are_protocol_errors(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_to_worker(frame)
    with pytest.raises(ProtocolError):
        decode_from_worker(frame)


def test_a_message_goes_only_the_way_it_was_made_for() -> None:
    with pytest.raises(ProtocolError):
        decode_to_worker(encode_from_worker([Loaded(1, 1, 1, 0.0)]))
    with pytest.raises(ProtocolError):
        decode_from_worker(encode_to_worker([Generate("a")]))


def test_the_last_words_are_what_workers_say_of_one_request() -> None:
    """Who waits for a request's end matches on `LastWord`: one that is missing there would wait for ever."""
    ends = set(get_args(protocol.LastWord))
    assert ends <= set(FROM_WORKER) & set(get_args(protocol.RequestEvent))
    assert set(get_args(protocol.RequestEvent)) - ends == {protocol.Started, protocol.Progress, Delta}
    assert set(get_args(protocol.Work)) <= set(TO_WORKER)


def test_token_ids_stay_integers_as_keys() -> None:
    request = Generate("a", sampling=Sampling(logit_bias={5: 1.5, 6: -100.0}))
    (decoded,) = decode_to_worker(encode_to_worker([request]))
    assert decoded == request


def test_a_fault_error_carries_its_fault() -> None:
    error = protocol.fault(FaultCode.QUEUE_FULL, "Too many.", retryable=True, retry_after_s=1.5)
    assert error.fault == Fault(FaultCode.QUEUE_FULL, "Too many.", True, None, 1.5)
    assert str(error) == "Too many."
