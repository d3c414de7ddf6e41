"""Run the soak.

    python -m tests.soak [MINUTES] [--seed N] [--engine both|fake|mlx] [--keep]

Exit code 0: nothing was lost and nothing was left behind. 1: something was; it is said what, how to repeat
it, and where the logs are.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.soak.arena import Arena
from tests.soak.cast import fake_cast, real_cast
from tests.soak.clients import run_client
from tests.soak.ledger import Ledger
from tests.soak.operators import ADMINISTRATOR, SABOTEUR, run_operator, write_configuration
from tests.soak.watch import HEAD, Watch

CLIENTS = {"fake": 5, "mlx": 3}
LONGEST_ROUND_S = 25.0
"""Between two quiet points."""
COMMON = {
    "MLXK_DRAIN_TIMEOUT": "4s",
    "MLXK_STOP_GRACE": "2s",
    "MLXK_MAX_WAIT": "60s",
    "MLXK_QUEUE_PER_MODEL": "10",
    "MLXK_MAX_BATCH": "6",
    "MLXK_LOG_LEVEL": "debug",
    "MLXK_CACHE": "64MB",
}
SETTINGS = {
    "fake": {
        **COMMON,
        "MLXK_ENGINE": "fake",
        "MLXK_MAX_MEMORY": "750MB",  # three models by their estimate
        "MLXK_ABORT_GRACE": "1.5s",
        "MLXK_PONG_TIMEOUT": "4s",
        "MLXK_START_TIMEOUT": "10s",
        "MLXK_LOAD_STALL": "4s",
    },
    "mlx": {
        **COMMON,
        "MLXK_MAX_MEMORY": "2GB",
        "MLXK_ABORT_GRACE": "10s",
        "MLXK_PONG_TIMEOUT": "8s",
        "MLXK_START_TIMEOUT": "25s",
    },
}
MAX_MODELS = {"fake": 4, "mlx": 2}
ENDS = ("kill -9", "Ctrl-C", "SIGTERM", "two Ctrl-C", "mlxk stop", "mlxk restart")


def make_arena(engine: str, root: Path, seed: int, ledger: Ledger) -> Arena:
    home = root / engine
    (home / "models").mkdir(parents=True)
    cast = fake_cast(home) if engine == "fake" else real_cast(home)
    arena = Arena(
        engine, home, cast, SETTINGS[engine], max_models=MAX_MODELS[engine], seed=seed, ledger=ledger
    )
    write_configuration(arena, arena.chance("first configuration"))
    return arena


def conduct(arena: Arena, watch: Watch, duration_s: float, restarts_first: bool) -> None:
    """Start, rounds of chaos with quiet points between, end. The server is ended and started anew only in one
    half of the time: in the other it lives on, so that a slow leak shows."""
    chance = arena.chance("conductor")
    deadline = time.monotonic() + duration_s
    middle = time.monotonic() + duration_s / 2
    round_s = min(LONGEST_ROUND_S, duration_s / 4)
    ends = list(ENDS)
    arena.start()
    threads: list[threading.Thread] = []
    try:
        watch.rest()
        threads = _start_threads(arena, watch)
        while (now := time.monotonic()) < deadline and not arena.over.is_set():
            in_restarts = (now < middle) is restarts_first
            arena.over.wait(min(deadline - now, round_s * chance.uniform(0.6, 1.0)))
            if in_restarts:
                if not ends:
                    ends = list(ENDS)
                _end_and_start(arena, ends.pop(chance.randrange(len(ends))))
            with arena.quiet() as at_rest:
                if at_rest:
                    watch.rest()
                else:
                    arena.fail("an operation did not end")
    finally:
        arena.over.set()
        for thread in threads:
            thread.join(130)
            if thread.is_alive():
                arena.fail(f"the thread {thread.name} did not end")
    took_s = arena.end("Ctrl-C")
    arena.record("end of the server: Ctrl-C", "ended", took_s)


def _end_and_start(arena: Arena, how: str) -> None:
    """Under full load. What it left, the next one sweeps up."""
    from tests.process.watch import workers_of

    killed = how in ("kill -9", "two Ctrl-C")
    with arena.disturbances.going_on("server killed" if killed else "server"):
        if how == "mlxk restart":
            arena.record("mlxk restart (server)", "anew", arena.restart())
            return
        workers = workers_of(arena.server)
        took_s = arena.end(how)
        arena.record(f"end of the server: {how}", "ended", took_s)
        arena.start()
        arena.check_swept(workers)


def _start_threads(arena: Arena, watch: Watch) -> list[threading.Thread]:
    work: list[tuple[str, Callable[[], None]]] = [
        ("watch", watch.run),
        ("administrator", lambda: run_operator(arena, "administrator", ADMINISTRATOR)),
        ("saboteur", lambda: run_operator(arena, "saboteur", SABOTEUR)),
    ]
    work += [
        (f"client {number}", lambda number=number: run_client(arena, number))
        for number in range(CLIENTS[arena.name])
    ]
    threads = [_thread(arena, name, target) for name, target in work]
    for thread in threads:
        thread.start()
    return threads


def _thread(arena: Arena, name: str, work: Callable[[], None]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        except Exception as error:  # a bug of the soak's own must not pass for a success
            import traceback

            arena.fail(f"the soak's thread {name} failed: {error!r}\n{traceback.format_exc()}")
            arena.over.set()

    return threading.Thread(target=run, name=f"{arena.name} {name}", daemon=True)


@contextmanager
def clean_environment(root: Path) -> Any:
    """Nothing of the user's is read or written; sockets go to a short path that is ours."""
    for name in list(os.environ):
        if name.startswith(("MLXK_", "HF_", "OPENAI_", "XDG_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ["TMPDIR"] = str(root)
    os.environ["MLXK_HOME"] = str(root / "no-home")
    tempfile.tempdir = None
    yield


def leftovers(root: Path) -> list[str]:
    """Processes and sockets that outlived their servers."""
    found = [f"socket directory {path}" for path in root.glob("mlxk-*")]
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(root) in command and process.pid != os.getpid() and "mlxk" in command:
            found.append(f"process {process.pid}: {command}")
    found += [f"child {child.pid} ({child.status()})" for child in psutil.Process().children()]
    return found


def run(engines: list[str], duration_s: float, seed: int, root: Path, ledger: Ledger) -> list[Watch]:
    watches = []
    conductors = []
    arenas = [make_arena(engine, root, seed, ledger) for engine in engines]
    for number, arena in enumerate(arenas):
        watch = Watch(arena)
        watches.append(watch)

        def work(arena: Arena = arena, watch: Watch = watch, number: int = number) -> None:
            conduct(arena, watch, duration_s, restarts_first=number == 0)

        conductors.append(_thread(arena, "conductor", work))
    try:
        for conductor in conductors:
            conductor.start()
        for conductor in conductors:
            conductor.join()
    except KeyboardInterrupt:
        for arena in arenas:
            arena.over.set()
        for conductor in conductors:
            conductor.join(150)
        print("interrupted: what follows is as far as it came", file=sys.stderr)
    if found := leftovers(root):
        ledger.fail("soak", "left behind: " + "; ".join(found))
    for arena in arenas:
        arena.close()
    return watches


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("minutes", nargs="?", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--engine", choices=("both", "fake", "mlx"), default="both")
    parser.add_argument("--keep", action="store_true", help="keep homes and logs also on success")
    a = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if a.seed is None else a.seed
    engines = ["fake", "mlx"] if a.engine == "both" else [a.engine]
    root = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp"))
    repeat = f"script/soak {a.minutes:g} --seed {seed} --engine {a.engine}"
    print(f"soak: {a.minutes:g} minutes, seed {seed} (to repeat: {repeat}), logs in {root}", flush=True)
    ledger = Ledger()
    with clean_environment(root):
        began = time.monotonic()
        watches = run(engines, a.minutes * 60, seed, root, ledger)
    lines = [line for watch in watches for line in watch.judge()]
    print(f"\n{ledger.table()}\n\n{HEAD}\n" + "\n".join(lines))
    looks = ", ".join(f"{w.looks} looks at {w.most_models} models at most" for w in watches)
    print(f"\nseed {seed}, {time.monotonic() - began:.0f} s, {ledger.total()} operations; {looks}")
    if ledger.failures:
        print(f"\n{len(ledger.failures)} failures:\n" + "\n".join(ledger.failures))
        print(f"\nto repeat (the same operations, another timing): {repeat}\nlogs are kept in {root}")
        return 1
    if a.keep:
        print(f"logs are kept in {root}")
    else:
        shutil.rmtree(root, ignore_errors=True)
    print("nothing was lost, nothing was left behind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
