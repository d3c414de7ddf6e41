"""What `bench.lifecycle` sets up and measures: real servers, real MLX, looked at from outside.

Every function makes one round and returns {what: value} in seconds, bytes or percent of one core.
"""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from bench.models import larger_model
from mlxk.supervisor.control_client import ControlClient
from mlxk.supervisor.memory import process_bytes
from tests.e2e.prompts import END_TOKENS
from tests.process.watch import workers_of
from tests.server import Server, add_tiny_copy, is_alive

MODELS = ("tiny", "tiny-b", "tiny-c")
MIDDLE = "middle"
"""`models.larger_model`: random weights, about 38 M parameters."""
IDLE_S = 10.0
REQUESTS = 200
WAIT_S = 60.0
Values = dict[str, float]


def make_home(home: Path) -> None:
    """Copies of the built-in model, and the middle one."""
    for name in MODELS[1:]:
        add_tiny_copy(home, name)
    (home / "models" / MIDDLE).symlink_to(larger_model())


@contextmanager
def serving(home: Path, *models: str, spare: bool = True) -> Iterator[Server]:
    """A server with these models ready and the spare warm: nothing else works while it is measured."""
    env = {"MLXK_SPARE": "1" if spare else "0", "MLXK_LOG_LEVEL": "warning", "MLXK_MAX_MEMORY": "8GB"}
    server = Server(home, models, env)
    try:
        for name in models:
            server.wait_for(lambda found, name=name: found.get(name, {}).get("state") == "ready", WAIT_S)
        if spare:
            wait_for_spare(server)
        yield server
    finally:
        server.close()


def wait_for_spare(server: Server) -> None:
    deadline = time.monotonic() + WAIT_S
    while not ((spare := server.call("ps")["server"]["spare"]) and spare["warm"]):
        assert time.monotonic() < deadline, "the spare worker did not become warm"
        time.sleep(0.05)


class Stream:
    """A running stream, read in a thread of its own: when its first and its last event came."""

    def __init__(self, server: Server, model: str, max_tokens: int = 7000) -> None:
        address = urlsplit(server.url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=WAIT_S)
        body: dict[str, Any] = {
            "model": model,
            "prompt": "One, two",
            "max_tokens": max_tokens,
            "stream": True,
        }
        body |= {"ignore_eos": True, "logit_bias": {str(token): -100 for token in END_TOKENS}}
        self._connection.request(
            "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        self._socket = self._connection.sock
        self.begun = threading.Event()
        self.ended_at: float | None = None
        """When `[DONE]` or the error event came; None as long as neither has."""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            response = self._connection.getresponse()
            while line := response.readline():
                if line.startswith(b"data: [DONE]") or b'"error"' in line[:16]:
                    self.ended_at = time.perf_counter()
                    return
                if line.startswith(b"data: "):
                    self.begun.set()
        except (OSError, http.client.HTTPException, AttributeError, ValueError):
            return  # we have hung up, or the server is gone

    def wait_begun(self) -> None:
        assert self.begun.wait(WAIT_S), "the stream did not begin"

    def wait_ended(self) -> float:
        self._thread.join(WAIT_S)
        assert self.ended_at is not None, "the stream was cut without a last word"
        return self.ended_at

    def hang_up(self) -> float:
        """Returns the moment."""
        now = time.perf_counter()
        self._socket.shutdown(socket.SHUT_RDWR)
        return now

    def close(self) -> None:
        self._thread.join(WAIT_S)
        self._connection.close()


@contextmanager
def streams(server: Server, *models: str, max_tokens: int = 7000) -> Iterator[list[Stream]]:
    """All of them have had their first token."""
    with ExitStack() as stack:
        found = []
        for model in models:
            found.append(Stream(server, model, max_tokens))
            stack.callback(found[-1].close)
        for stream in found:
            stream.wait_begun()
        yield found


def _gone_at(pids: Sequence[int]) -> float:
    """The moment when the last of them is gone."""
    deadline = time.perf_counter() + WAIT_S
    while any(is_alive(pid) for pid in pids):
        assert time.perf_counter() < deadline, "they do not end"
        time.sleep(0.002)
    return time.perf_counter()


# ------------------------------------------------------------------------------ scenes


def stop(server: Server) -> Values:
    """One loaded model, idle and busy, drained and at once."""
    values = {}
    for now in (False, True):
        server.call("load", {"models": [MODELS[0]]})
        wait_for_spare(server)
        began = time.perf_counter()
        server.call("stop", {"models": [MODELS[0]], "now": now})
        values["stop_idle_now" if now else "stop_idle"] = time.perf_counter() - began
    server.call("load", {"models": [MODELS[0]]})
    wait_for_spare(server)
    with streams(server, MODELS[0], max_tokens=60) as (stream,):
        server.call("stop", {"models": [MODELS[0]]})
        values["stop_busy_drain"] = time.perf_counter() - stream.wait_ended()
    server.call("load", {"models": [MODELS[0]]})
    wait_for_spare(server)
    with streams(server, MODELS[0]) as (stream,):
        began = time.perf_counter()
        server.call("stop", {"models": [MODELS[0]], "now": True})
        values["stop_busy_now"] = time.perf_counter() - began
        values["stop_busy_now_last_event"] = stream.wait_ended() - began
    return values


def ctrl_c(home: Path) -> Values:
    """Three busy models, one signal."""
    with serving(home, *MODELS) as server, streams(server, *MODELS) as running:
        workers = workers_of(server)
        began = time.perf_counter()
        server.signal(signal.SIGINT)
        code = server.wait()
        gone_s = time.perf_counter() - began
        assert code == 130, code
        assert not [pid for pid in workers if is_alive(pid)]
        last_event_s = max(stream.wait_ended() for stream in running) - began
    return {"ctrl_c_process_gone": gone_s, "ctrl_c_last_event": last_event_s}


def kill_front(home: Path) -> Values:
    """Three busy models and a spare; the front is killed."""
    with serving(home, *MODELS) as server, streams(server, *MODELS):
        workers = workers_of(server)
        began = time.perf_counter()
        server.signal(signal.SIGKILL)
        orphans_s = _gone_at(workers) - began
        server.wait()
    shutil.rmtree(Path(server.control_path).parent, ignore_errors=True)
    return {"orphans_after_kill": orphans_s}


def disconnect(server: Server) -> Values:
    """From the closed connection to the free slot, as the control socket tells it (asked without a pause)."""
    created_at = psutil.Process(server.pid).create_time()
    with (
        ControlClient(server.control_path, server.pid, created_at) as client,
        streams(server, MODELS[0]) as (stream,),
    ):
        left_at = stream.hang_up()
        while True:
            models = client.call("ps", {}, timeout_s=WAIT_S)["models"]
            now = time.perf_counter()
            if not next(model["in_flight"] for model in models if model["name"] == MODELS[0]):
                return {"disconnect_to_free": now - left_at}
            assert now - left_at < WAIT_S, "the slot stays taken"


def memory_returned(server: Server) -> Values:
    """Of the middle model, after a request: what its process held, and what the system has back."""
    server.call("load", {"models": [MIDDLE]})
    wait_for_spare(server)
    with streams(server, MIDDLE, max_tokens=16) as (stream,):
        stream.wait_ended()
    front_before = process_bytes(server.pid)
    worker = process_bytes(server.ps()[MIDDLE]["pid"])
    before = psutil.virtual_memory().available
    (result,) = server.call("stop", {"models": [MIDDLE]})["models"]
    after = psutil.virtual_memory().available
    return {
        "stop_worker_held": worker,
        "stop_reported": result["freed_bytes"],
        "stop_system_gained": after - before,
        "stop_front_grew": process_bytes(server.pid) - front_before,
    }


def idle_cpu(server: Server) -> Values:
    """Percent of one core, over some seconds, with one loaded model and a spare."""
    wait_for_spare(server)
    pids = [server.pid, *workers_of(server)]
    before = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids]
    began = time.perf_counter()
    time.sleep(IDLE_S)
    wall_s = time.perf_counter() - began
    after = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids]
    shares = [100 * (b - a) / wall_s for a, b in zip(before, after, strict=True)]
    return {"idle_cpu_front": shares[0], "idle_cpu_worker": max(shares[1:])}


def front_memory(home: Path) -> Values:
    """Of a fresh server, and of the same one after many requests."""
    with serving(home, MODELS[0]) as server:
        fresh = process_bytes(server.pid)
        for _ in range(REQUESTS // 8):
            with streams(server, *[MODELS[0]] * 8, max_tokens=8) as running:
                for stream in running:
                    stream.wait_ended()
        return {"front_memory_fresh": fresh, "front_memory_used": process_bytes(server.pid)}


@contextmanager
def private_home() -> Iterator[Path]:
    """Short, because sockets lie below it; the user's own servers and models are not touched."""
    home = Path(tempfile.mkdtemp(prefix="mb-", dir="/tmp"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
