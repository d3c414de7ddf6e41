"""A host that vanishes: a server and its client in a network of their own, whose only link goes down.

The one in the test (`seconds_until_let_go`) runs this file inside of the new network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

NETWORK = ("unshare", "--map-root-user", "--net")


def is_possible() -> bool:
    """Linux with user namespaces, and iproute2."""
    try:
        tried = subprocess.run([*NETWORK, "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    except OSError:
        return False
    return tried.returncode == 0


def seconds_until_let_go(home: Path) -> float:
    command = [*NETWORK, sys.executable, "-m", "tests.process.vanished", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1])


def _let_go(home: Path) -> float:
    from tests.process.client import Request
    from tests.server import Server, add_fake_model

    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    add_fake_model(home, "steady", step_s=0.02)
    server = Server(home, env={"MLXK_ENGINE": "fake", "MLXK_SPARE": "0", "MLXK_SEND_TIMEOUT": "1s"})
    try:
        stream = Request(server, "steady", words=10_000_000, stream=True)
        stream.next_event()
        subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
        began = time.monotonic()
        server.wait_for(lambda models: models["steady"]["in_flight"] == 0, 60)
        return time.monotonic() - began
    finally:
        server.close()


if __name__ == "__main__":
    print(json.dumps(_let_go(Path(sys.argv[1]))))
