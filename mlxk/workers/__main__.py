"""`python -m mlxk.workers`: the entry point of a worker process.

Order matters: the lifeline first (a front killed now must leave nothing behind), then the
engine's imports, then Hello: a worker that has said Hello is warm.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from mlxk.workers.lifeline import start_lifeline

if TYPE_CHECKING:
    from mlxk.workers.engine import Engine


def main(argv: list[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m mlxk.workers")
    parser.add_argument("--connect", required=True, help="the front's ROUTER socket, ipc://…")
    parser.add_argument("--id", required=True, help="this spawn's identity, e.g. w7")
    parser.add_argument("--lifeline-fd", type=int, required=True)
    parser.add_argument("--engine", choices=["mlx", "fake"], default="mlx")
    arguments = parser.parse_args(argv)
    start_lifeline(arguments.lifeline_fd)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # an inherited SIG_IGN would make the imports unstoppable
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # and the front's threads block them

    import logging

    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )

    from mlxk import __version__
    from mlxk.workers.channel import Channel
    from mlxk.workers.loop import EngineLoop
    from mlxk.workers.protocol import PROTOCOL, Hello

    engine = _make_engine(arguments.engine)
    channel = Channel(arguments.connect, arguments.id, engine.stats)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: channel.request_shutdown())
    channel.start()
    channel.send([Hello(PROTOCOL, __version__, os.getpid(), engine.name, engine.working_set_bytes)])
    try:
        EngineLoop(engine, channel).run()
    finally:
        channel.close()
    return 0


def _make_engine(name: str) -> Engine:
    if name == "fake":
        from mlxk.workers.fake_engine import FakeEngine

        return FakeEngine()
    from mlxk.config.imports import nothing_to_collect
    from mlxk.workers.quick_imports import remember_import_structures

    remember_import_structures()
    with nothing_to_collect():
        from mlxk.workers.mlx_engine import MlxEngine

    engine = MlxEngine()
    engine.warm_up()
    return engine


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: finalizers of native libraries have hung at exit, and nothing is left to clean.
    os._exit(code)
