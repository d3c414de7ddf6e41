"""The control socket: `mlxk ps|stop|load|restart` work here while HTTP is busy, wedged or behind a key.

It lies in a 0700 directory, so only the server's own user can reach it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import zmq

from mlxk.supervisor.control_protocol import (
    MAX_FRAME_BYTES,
    ControlFault,
    ControlProtocolError,
    ControlReply,
    ControlRequest,
    decode_request,
    encode_reply,
    parse_models,
    parse_stop,
)
from mlxk.supervisor.service import Service
from mlxk.workers.protocol import FaultCode, FaultError

log = logging.getLogger("mlxk.control")


class ControlSocket:
    """Answers each request in a task of its own: a slow stop does not keep a `ps` waiting."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, service: Service) -> None:
        self._service = service
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        try:
            self._socket.bind(address)
        except zmq.ZMQError:
            self._socket.close()  # an open socket would keep its context from ever ending
            raise
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._drain)

    async def close(self) -> None:
        """Let running answers go out, for a moment."""
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
            task = asyncio.create_task(self._answer(parts[0], request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, peer: bytes, request: ControlRequest) -> None:
        try:
            reply = ControlReply(request.id, data=await self._carry_out(request))
        except FaultError as error:
            reply = ControlReply(request.id, error=ControlFault(error.fault.code, error.fault.message))
        except ControlProtocolError as error:
            reply = ControlReply(request.id, error=ControlFault(FaultCode.INVALID_REQUEST, str(error)))
        except Exception as error:
            log.exception("control verb %s failed", request.verb)
            text = f"The server failed to carry out {request.verb!r}: {type(error).__name__}: {error}"
            reply = ControlReply(request.id, error=ControlFault(FaultCode.INTERNAL, text))
        self._reply(peer, reply)

    def _reply(self, peer: bytes, reply: ControlReply) -> None:
        if not self._socket.closed:
            self._socket.send_multipart([peer, encode_reply(reply)], zmq.NOBLOCK)
            self._loop.call_soon(self._drain)  # see Switchboard.send

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
                names = parse_models(request.args).models
                return {"models": [await self._service.load(name) for name in names]}
            case "restart":
                return await self._restart(request)
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
                await self._service.resolve(name)
            stops = (
                self._service.stop_model(name, now=args.now, timeout_s=args.timeout_s) for name in args.models
            )
            stopped = list(await asyncio.gather(*stops))
        return {"models": stopped, "server": False}
