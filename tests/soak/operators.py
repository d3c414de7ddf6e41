"""What is done to the pool: loads, stops, restarts, reloads; and to its workers: signals that they did not
deserve."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from mlxk.supervisor.control_client import ControlError, ControlTimeoutError
from mlxk.supervisor.control_protocol import Verb
from tests.soak.arena import GONE, Arena
from tests.soak.asking import HANG_S, ask

Operation = Callable[[Arena, random.Random], None]
PAUSE_S = {"administrator": {"fake": 1.0, "mlx": 2.0}, "saboteur": {"fake": 1.5, "mlx": 8.0}}
"""The mean between two operations. A fault a second would be a crash loop, and leave nothing to test; a real
model takes seconds to come back."""


def run_operator(arena: Arena, role: str, operations: dict[str, tuple[float, Operation]]) -> None:
    """The thread of an administrator, or of a saboteur."""
    chance = arena.chance(role)
    names = list(operations)
    weights = [operations[name][0] for name in names]
    while arena.keep_going():
        (name,) = chance.choices(names, weights)
        with arena.operation():
            operations[name][1](arena, chance)
        arena.over.wait(chance.uniform(0.1, 2 * PAUSE_S[role][arena.name]))


def _call(arena: Arena, operation: str, verb: str, args: dict[str, Any], model: str) -> dict[str, Any] | None:
    """Over the control socket; checked like a client's request. None if it failed for a known cause."""
    began = time.monotonic()
    data, outcome, message = None, "ok", ""
    try:
        data = arena.server.call(verb, args, timeout_s=HANG_S)
    except ControlError as error:
        outcome, message = error.fault.type, error.fault.message
    except GONE as error:
        outcome, message = type(error).__name__, str(error)
    ended = time.monotonic()
    arena.record(operation, outcome, ended - began)
    known = [one for one in arena.cast.models if one.name == model]
    waited_in_vain = outcome == ControlTimeoutError.__name__  # nothing excuses silence
    excused = not waited_in_vain and (
        outcome == "ok"
        or (known and outcome in known[0].expected_errors)
        or arena.disturbances.explains(outcome, model, began, ended)
        or arena.disturbances.touched("", began, ended, "server", "server killed")
    )
    if not excused:
        arena.fail(f"{operation} {model}: {outcome} without a cause: {message[:600]}")
    return data


def _any_name(arena: Arena, chance: random.Random) -> str:
    return chance.choice(arena.cast.models).name


# ------------------------------------------------------------------ administrator


def load(arena: Arena, chance: random.Random) -> None:
    name = _any_name(arena, chance)
    _call(arena, "load", "load", {"models": [name]}, name)


def load_and_leave(arena: Arena, chance: random.Random) -> None:
    """Nobody waits for the load any more: it is given up, or somebody else wants it."""
    name = _any_name(arena, chance)
    answer = ask(arena.url, "POST", f"/pool/{name}/load", leave_after_s=chance.choice([0.05, 0.3, 1.0]))
    arena.record("load, left", answer.outcome, answer.seconds)
    excused = answer.outcome in ("ok", "left") or answer.outcome in arena.model(name).expected_errors
    if not excused and not arena.disturbances.explains(answer.outcome, name, answer.began, answer.ended):
        arena.fail(f"POST /pool/{name}/load: {answer.status} {answer.outcome}: {answer.message[:600]}")


def dry_run(arena: Arena, chance: random.Random) -> None:
    """What would happen; nothing does. Answered for models that cannot be loaded, too."""
    name = _any_name(arena, chance)
    _call(arena, "load --dry-run", "load", {"models": [name], "dry_run": True}, "")


STOPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("stop", {}),
    ("stop --now", {"now": True}),
    ("stop --timeout 0.5", {"timeout_s": 0.5}),
)


def stop(arena: Arena, chance: random.Random) -> None:
    name = _any_name(arena, chance)
    how, args = chance.choice(STOPS)
    with arena.disturbances.going_on("stop", name):
        before = arena.pid_of(name)
        data = _call(arena, how, "stop", {"models": [name], **args}, name)
        if data is not None and before is not None and _lives(before):
            arena.fail(f"{how} {name} was reported and its process {before} lives")


def stop_all(arena: Arena, chance: random.Random) -> None:
    how, args = chance.choice(STOPS)
    with arena.disturbances.going_on("stop"):
        _call(arena, f"{how} --all", "stop", {"all": True, **args}, "")


def restart(arena: Arena, chance: random.Random) -> None:
    """Costs nobody a request: it explains no error."""
    steady = [model.name for model in arena.cast.models if not model.expected_errors and model.name != "deaf"]
    name = chance.choice(steady)
    with arena.disturbances.going_on("restart", name):
        _call(arena, "restart MODEL", "restart", {"models": [name]}, name)


def write_configuration(arena: Arena, chance: random.Random) -> None:
    """Another one that is right. It may change how much fits and how long models stay, not what they say."""
    lines = ["[server]", f"max_models = {chance.choice([arena.max_models, arena.max_models - 1])}"]
    lines.append(f'keep_alive = "{chance.choice(["3s", "30s", "10m"])}"')
    for model in arena.cast.models:
        if model.pinned:
            lines += [f'[models."{model.name}"]', "pinned = true"]
        elif chance.random() < 0.3:
            lines += [f'[models."{model.name}"]', f'keep_alive = "{chance.choice(["1s", "5s", "1h"])}"']
    (arena.home / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


WRONG = ("[server]\nmax_models = -3\n", "[server\n", "[server]\nmax_modles = 3\n", "\0")


def reload(arena: Arena, chance: random.Random) -> None:
    """With a right or a wrong file, by signal or by verb. Explains no error either."""
    with arena.configuration, arena.disturbances.going_on("reload"):
        path = arena.home / "config.toml"
        before = path.read_text(encoding="utf-8")
        wrong = chance.random() < 0.3
        by_signal = chance.random() < 0.4
        if wrong:
            path.write_text(chance.choice(WRONG), encoding="utf-8")
        else:
            write_configuration(arena, chance)
        if by_signal or "RELOAD" not in Verb.__members__:
            began = time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                arena.server.process.send_signal(signal.SIGHUP)
            time.sleep(0.3)  # nobody tells when it has been taken
            arena.record(f"SIGHUP{', wrong file' * wrong}", "sent", time.monotonic() - began)
        else:
            _reload_by_verb(arena, wrong=wrong)
        if wrong:
            path.write_text(before, encoding="utf-8")


def _reload_by_verb(arena: Arena, *, wrong: bool) -> None:
    began = time.monotonic()
    process = arena.cli("reload")
    try:
        _, errors = process.communicate(timeout=HANG_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        arena.fail("mlxk reload hangs")
        return
    ended = time.monotonic()
    name = f"mlxk reload{', wrong file' * wrong}"
    arena.record(name, f"exit {process.returncode}", ended - began)
    if arena.disturbances.touched("", began, ended, "server", "server killed"):
        return
    if (process.returncode == 0) is wrong:
        arena.fail(f"{name}: exit code {process.returncode}: {errors[-600:]}")


# ---------------------------------------------------------------------- saboteur


def _victim(arena: Arena, chance: random.Random) -> tuple[str, int] | None:
    try:
        models = arena.server.ps()
    except GONE:
        return None
    living = sorted((name, model["pid"]) for name, model in models.items() if model["pid"])
    return chance.choice(living) if living else None


def _signalled(number: int, kind: str, operation: str) -> Operation:
    def strike(arena: Arena, chance: random.Random) -> None:
        victim = _victim(arena, chance)
        if victim is None:
            return
        name, pid = victim
        began = time.monotonic()
        with arena.disturbances.going_on(kind, name):
            sent = _send(arena, pid, number)
        arena.record(operation, "sent" if sent else "gone already", time.monotonic() - began)

    return strike


def pause(arena: Arena, chance: random.Random) -> None:
    """Shorter than the front's patience: explains no error."""
    victim = _victim(arena, chance)
    if victim is None:
        return
    began = time.monotonic()
    sent = _send(arena, victim[1], signal.SIGSTOP)
    time.sleep(chance.uniform(0.1, 0.6))
    _send(arena, victim[1], signal.SIGCONT)
    arena.record("SIGSTOP, soon SIGCONT", "sent" if sent else "gone already", time.monotonic() - began)


def kill_any_worker(arena: Arena, chance: random.Random) -> None:
    """Also the spare, or one that has hardly begun."""
    with contextlib.suppress(*GONE), arena.disturbances.going_on("kill"):
        if pids := arena.server.worker_pids():
            began = time.monotonic()
            _send(arena, chance.choice(sorted(pids)), signal.SIGKILL)
            arena.record("kill -9 of any worker", "sent", time.monotonic() - began)


def _send(arena: Arena, pid: int, number: int) -> bool:
    """Only to what is a worker of this arena's: pids are used again."""
    if pid not in _workers(arena):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def _workers(arena: Arena) -> list[int]:
    with contextlib.suppress(*GONE):
        return arena.server.worker_pids()
    return []


def _lives(pid: int) -> bool:
    from tests.server import is_alive

    return is_alive(pid)


ADMINISTRATOR: dict[str, tuple[float, Operation]] = {
    "load": (4, load),
    "load and leave": (3, load_and_leave),
    "dry run": (1, dry_run),
    "stop": (6, stop),
    "stop all": (0.5, stop_all),
    "restart": (4, restart),
    "reload": (2, reload),
}
SABOTEUR: dict[str, tuple[float, Operation]] = {
    "kill": (3, _signalled(signal.SIGKILL, "kill", "kill -9 of a worker")),
    "term": (2, _signalled(signal.SIGTERM, "term", "SIGTERM of a worker")),
    "freeze": (1, _signalled(signal.SIGSTOP, "freeze", "SIGSTOP of a worker")),
    "pause": (2, pause),
    "kill any": (1, kill_any_worker),
}
