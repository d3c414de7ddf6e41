"""The wire contract of the control socket: what `mlxk ps`, `stop`, `load` say to a running server.

The server binds a ROUTER on `<run>/c`. A client's DEALER sends a single-part message with one
msgpack `ControlRequest` and gets one or more single-part messages with a `ControlReply` that
carries the same id. (A ROUTER sees the peer's identity before the payload, as always.)
Structs are append-only: new fields go to the end and have a default, so that a `mlxk stop` of
yesterday can still end a server of today. Neither zmq nor asyncio is imported here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeVar

import msgspec

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Set as MAXMSGSIZE on both sockets: a frame beyond it is no word of ours."""


class Verb(StrEnum):
    """What a server can be asked. `ControlRequest.verb` stays a plain string on the wire, so that
    an unknown verb of a newer client gets an answer that names it, not a decoding error."""

    PING = "ping"
    COUNTS = "counts"
    """What is at work, in numbers: for whoever hunts a leak."""
    PS = "ps"
    STOP = "stop"
    LOAD = "load"
    RESTART = "restart"
    RELOAD = "reload"
    CONFIG = "config"
    """The settings that it goes by, and what a reload would change."""
    EVENTS = "events"
    """Answered by several replies."""
    MORE = "more"
    """With the id of a request that is answered by several: the last one was taken. Has no answer."""
    CANCEL = "cancel"
    """With the id of such a request: it is enough. Has no answer."""


class ControlRequest(msgspec.Struct, frozen=True):
    id: str
    """Chosen by the client, unique on its socket."""
    verb: str
    args: dict[str, Any] = {}


class ControlFault(msgspec.Struct, frozen=True):
    """A failure as data. `type` is a `FaultCode` value, or one of the client's own types."""

    type: str
    message: str
    """One or two sentences for a person: what went wrong and what to do."""
    details: dict[str, Any] = {}


class ControlReply(msgspec.Struct, frozen=True):
    """Exactly one of `data` and `error` is given."""

    id: str
    data: dict[str, Any] | None = None
    error: ControlFault | None = None
    more: bool = False
    """Another reply to the same request will follow, once the client has asked for it (`Verb.MORE`)."""


class StopArgs(msgspec.Struct, frozen=True):
    """Arguments of `stop`. No models and not `all`: the server itself (answered before it ends)."""

    models: list[str] = []
    all: bool = False
    now: bool = False
    """Do not wait for what runs."""
    timeout_s: float | None = None
    """How long running requests may go on, a model's or the whole server's, if that is less than its
    `drain_timeout`. None: that."""


class EventsArgs(msgspec.Struct, frozen=True):
    """Arguments of `events`. Answered by replies of `{"events": [...]}`; an empty list is a sign of life."""

    recent: int = 0
    """So many of the past come first."""
    follow: bool = True
    """Go on with what happens, until the server ends."""


class ModelsArgs(msgspec.Struct, frozen=True):
    """Arguments of `restart`. Without models: the server itself."""

    models: list[str]
    now: bool = False
    """`restart`: do not wait for what runs on the old process."""
    timeout_s: float | None = None
    """`restart`: how long that may go on. None: as long as it takes."""


class LoadArgs(msgspec.Struct, frozen=True):
    """Arguments of `load`."""

    models: list[str]
    dry_run: bool = False
    """Say what would be done, and do nothing."""


class ControlProtocolError(Exception):
    """A frame or arguments that cannot be understood."""


_encoder = msgspec.msgpack.Encoder()
_request = msgspec.msgpack.Decoder(ControlRequest)
_reply = msgspec.msgpack.Decoder(ControlReply)


def encode_request(request: ControlRequest) -> bytes:
    return _encoder.encode(request)


def encode_reply(reply: ControlReply) -> bytes:
    return _encoder.encode(reply)


def decode_request(frame: bytes | memoryview) -> ControlRequest:
    """Raises ControlProtocolError if the frame is not a request."""
    try:
        return _request.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ControlProtocolError(f"undecodable control request: {error}") from error


def decode_reply(frame: bytes | memoryview) -> ControlReply:
    """Raises ControlProtocolError if the frame is not a reply."""
    try:
        reply = _reply.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ControlProtocolError(f"undecodable control reply: {error}") from error
    if (reply.data is None) == (reply.error is None):
        raise ControlProtocolError("a control reply has either data or an error")
    return reply


def parse_stop(args: dict[str, Any]) -> StopArgs:
    """Raises ControlProtocolError naming the argument that is wrong."""
    return _convert(args, StopArgs)


def parse_events(args: dict[str, Any]) -> EventsArgs:
    """Raises ControlProtocolError naming the argument that is wrong."""
    return _convert(args, EventsArgs)


def parse_load(args: dict[str, Any]) -> LoadArgs:
    """Raises ControlProtocolError naming the argument that is wrong."""
    return _convert(args, LoadArgs)


def parse_models(args: dict[str, Any]) -> ModelsArgs:
    """Raises ControlProtocolError naming the argument that is wrong."""
    return _convert(args, ModelsArgs)


_Args = TypeVar("_Args", bound=msgspec.Struct)


def _convert(args: dict[str, Any], kind: type[_Args]) -> _Args:
    try:
        return msgspec.convert(args, kind)
    except msgspec.ValidationError as error:
        raise ControlProtocolError(f"wrong arguments: {error}") from error
