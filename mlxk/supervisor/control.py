"""The control socket: `mlxk ps|stop|load|restart` work here while HTTP is busy, wedged or behind a key.

It lies in a 0700 directory, so only the server's own user can reach it.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import zmq

from mlxk.supervisor.control_protocol import (
    MAX_FRAME_BYTES,
    ControlFault,
    ControlProtocolError,
    ControlReply,
    ControlRequest,
    Verb,
    decode_request,
    encode_reply,
    parse_events,
    parse_load,
    parse_models,
    parse_stop,
)
from mlxk.supervisor.control_streams import EventStream
from mlxk.supervisor.service import Service
from mlxk.workers.protocol import FaultCode, FaultError

log = logging.getLogger("mlxk.control")

GOODBYE_MS = 1000
"""How long the last answers may take to go out: to a client that reads, as long as their thread needs for a
core. Who reads nothing has at most one part of a stream outstanding, which fits into the buffers."""


class ControlSocket:
    """Answers each request in a task of its own: a slow stop does not keep a `ps` waiting."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, service: Service) -> None:
        self._service = service
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, GOODBYE_MS)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a client that is gone must be noticed
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        try:
            self._socket.bind(address)
        except zmq.ZMQError:
            self._socket.close()  # an open socket would keep its context from ever ending
            raise
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: dict[tuple[bytes, str], tuple[EventStream, asyncio.Task[None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._drain)

    async def close(self) -> None:
        """Let running answers go out, for a moment."""
        self._service.events.close()
        for stream, _ in self._streams.values():
            stream.ask()  # whether or not its client has: this is the end
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=1.0)
        self._loop.remove_reader(self._descriptor)
        for task in self._tasks:
            task.cancel()
        self._socket.close()

    def _drain(self) -> None:
        while not self._socket.closed:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(parts) != 2:
                continue
            try:
                request = decode_request(parts[1])
            except ControlProtocolError as error:
                log.warning("%s", error)
                fault = ControlFault(FaultCode.INVALID_REQUEST, str(error))
                self._reply(parts[0], ControlReply("", error=fault))
                continue
            self._take(parts[0], request)

    def _take(self, peer: bytes, request: ControlRequest) -> None:
        place = (peer, request.id)
        if request.verb in (Verb.MORE, Verb.CANCEL):
            if place in self._streams:
                stream, running = self._streams[place]
                if request.verb == Verb.MORE:
                    stream.ask()
                else:
                    running.cancel()
            return
        if request.verb == Verb.EVENTS:
            if place in self._streams:
                return  # an id used twice: the first stream goes on
            try:
                args = parse_events(request.args)
            except ControlProtocolError as error:
                fault = ControlFault(FaultCode.INVALID_REQUEST, str(error))
                self._reply(peer, ControlReply(request.id, error=fault))
                return
            stream = EventStream(self._service.events, args, partial(self._send_part, peer, request.id))
            task = asyncio.create_task(self._stream(peer, request.id, stream))
            self._streams[place] = stream, task
            task.add_done_callback(lambda _: self._streams.pop(place, None))
        else:
            task = asyncio.create_task(self._answer(peer, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stream(self, peer: bytes, request_id: str, stream: EventStream) -> None:
        try:
            data = await stream.run()
            if data is not None:
                self._send_part(peer, request_id, data, False)
        except Exception as error:
            log.exception("a stream of events failed")
            fault = ControlFault(FaultCode.INTERNAL, f"The stream failed: {type(error).__name__}: {error}")
            self._reply(peer, ControlReply(request_id, error=fault))

    def _send_part(self, peer: bytes, request_id: str, data: dict[str, Any], more: bool) -> bool:
        return self._reply(peer, ControlReply(request_id, data=data, more=more))

    async def _answer(self, peer: bytes, request: ControlRequest) -> None:
        try:
            reply = ControlReply(request.id, data=await self._carry_out(request))
        except FaultError as error:
            told = ControlFault(error.fault.code, error.fault.message, error.details)
            reply = ControlReply(request.id, error=told)
        except ControlProtocolError as error:
            reply = ControlReply(request.id, error=ControlFault(FaultCode.INVALID_REQUEST, str(error)))
        except Exception as error:
            log.exception("control verb %s failed", request.verb)
            text = f"The server failed to carry out {request.verb!r}: {type(error).__name__}: {error}"
            reply = ControlReply(request.id, error=ControlFault(FaultCode.INTERNAL, text))
        self._reply(peer, reply)

    def _reply(self, peer: bytes, reply: ControlReply) -> bool:
        """False if the client is gone."""
        if self._socket.closed:
            return False
        try:
            self._socket.send_multipart([peer, encode_reply(reply)], zmq.NOBLOCK)
        except zmq.Again:
            return True  # it reads nothing, and has more than enough to read
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        finally:
            self._loop.call_soon(self._drain)  # see Switchboard.send
        return True

    async def _carry_out(self, request: ControlRequest) -> dict[str, Any]:
        match request.verb:
            case "ping":
                return {"ready": self._service.is_ready()}
            case "counts":
                return await self._service.load_counts()
            case "ps":
                return await self._service.pool_data()
            case "stop":
                return await self._stop(request)
            case "load":
                args = parse_load(request.args)
                load = self._service.plan_load if args.dry_run else self._service.load
                return {"models": [await load(name) for name in args.models]}
            case "restart":
                return await self._restart(request)
            case "config":
                return await self._service.configuration()
            case "reload":
                return await self._service.reload()
            case _:
                text = (
                    f"This server does not know the verb {request.verb!r}; it may be older than the client."
                )
                raise ControlProtocolError(text)

    async def _restart(self, request: ControlRequest) -> dict[str, Any]:
        args = parse_models(request.args)
        if not args.models:
            await self._service.request_restart(now=args.now, timeout_s=args.timeout_s)
            return {"models": [], "server": True}
        for name in args.models:  # an unknown name must be found before anything is restarted
            await self._service.resolve(name)
        restart = self._service.restart_model
        return {
            "models": [await restart(name, now=args.now, timeout_s=args.timeout_s) for name in args.models]
        }

    async def _stop(self, request: ControlRequest) -> dict[str, Any]:
        args = parse_stop(request.args)
        if not args.models and not args.all:
            models = self._service.running_models()
            self._service.request_shutdown(now=args.now, timeout_s=args.timeout_s)
            return {"models": models, "server": True}
        if args.all:
            stopped = await self._service.stop_all(now=args.now, timeout_s=args.timeout_s)
        else:
            for name in args.models:  # an unknown name must be found before anything is stopped
                await self._service.name_to_stop(name)
            stops = (
                self._service.stop_model(name, now=args.now, timeout_s=args.timeout_s) for name in args.models
            )
            stopped = list(await asyncio.gather(*stops))
        return {"models": stopped, "server": False}
