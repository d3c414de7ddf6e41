"""The socket that HTTP comes in at."""

from __future__ import annotations

import socket

from mlxk.supervisor.run_dir import StartError


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket; raises StartError with what to do."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise StartError(f"The address {host!r} cannot be used: {error.strerror}.") from error
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        raise StartError(
            f"Port {port} on {host} cannot be had ({error.strerror}). Choose another: --port N"
        ) from error
    sock.setblocking(False)
    return sock


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
