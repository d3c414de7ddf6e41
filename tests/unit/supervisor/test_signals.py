"""The signals' own thread, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

TWICE = """
import os, queue, signal
from mlxk.supervisor import signals

taken = queue.Queue()
with signals.signal_desk() as desk:
    desk.hand_over(taken.put)

    def sent(*numbers):
        for number in numbers:
            os.kill(os.getpid(), number)
        return int(taken.get(timeout=20))

    signals.ECHO_S = 3600
    print(sent(signal.SIGINT))
    print(sent(signal.SIGINT, signal.SIGTERM))  # the SIGINT is the first one once more
    print(sent(signal.SIGTERM), sent(signal.SIGHUP), sent(signal.SIGHUP))
    signals.ECHO_S = 0
    print(sent(signal.SIGINT))
print(taken.empty())
"""


def test_a_ctrl_c_that_comes_twice_at_once_is_one() -> None:
    command = [sys.executable, "-P", "-c", TWICE]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (process.stdout.split(), process.stderr) == (["2", "15", "15", "1", "1", "2", "True"], "")
