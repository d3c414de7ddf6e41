"""Put on a server's PYTHONPATH: notes every file that it or a worker opens, and every connection that one
tries to make, in $MLXK_TEST_AUDIT."""

import os
import sys

_log = os.open(os.environ["MLXK_TEST_AUDIT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
_EVENTS = {
    "open",
    "os.listdir",
    "os.scandir",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
    "urllib.Request",
}


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event in _EVENTS:
        os.write(_log, f"{event} {arguments!r}\n".encode("utf-8", "replace"))


sys.addaudithook(_note)
