"""What clients do: ask, stream, leave at any moment, ask for nonsense, look on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable

from mlxk.supervisor.control_client import ControlTimeoutError
from tests.soak.arena import GONE, Arena
from tests.soak.asking import Answer, ask
from tests.soak.cast import Model, Question

COMMAND_LIMIT_S = 100.0
Operation = Callable[[Arena, random.Random], None]


def run_client(arena: Arena, number: int) -> None:
    """A client's thread."""
    chance = arena.chance(f"client {number}")
    names = list(OPERATIONS)
    weights = [OPERATIONS[name][0] for name in names]
    while arena.keep_going():
        (name,) = chance.choices(names, weights)
        with arena.operation():
            OPERATIONS[name][1](arena, chance)


def pick(arena: Arena, chance: random.Random) -> tuple[Model, Question]:
    models = arena.cast.models
    (model,) = chance.choices(models, [model.weight for model in models])
    return model, chance.choice(model.questions)


def check(arena: Arena, operation: str, model: Model, question: Question, answer: Answer) -> None:
    """It ended, with the right text, or with an error that somebody caused."""
    outcome = answer.outcome
    arena.record(operation, outcome, answer.seconds)
    where = f"{operation} of {model.name} ({answer.seconds:.1f} s, status {answer.status})"
    if not question.text.startswith(answer.text):
        arena.fail(f"{where}: wrong text {answer.text!r}, expected {question.text!r}")
    elif outcome == "ok":
        if answer.text != question.text or answer.finish_reason != question.finish_reason:
            arena.fail(f"{where}: {answer.text!r} ({answer.finish_reason}), expected {question.text!r}")
        elif model.expected_errors == frozenset({"insufficient_memory"}):
            arena.fail(f"{where}: it cannot have fitted")
    elif outcome == "hangs":
        arena.fail(f"{where}: it hangs, after {answer.text!r}")
    elif outcome != "left" and outcome not in model.expected_errors | _caused(arena, model, answer):
        arena.fail(f"{where}: {outcome!r} without a cause: {answer.message[:600]}")
    if answer.status in (429, 503) and "retry-after" not in answer.headers:
        arena.fail(f"{where}: {answer.status} without Retry-After")


def _caused(arena: Arena, model: Model, answer: Answer) -> frozenset[str]:
    """Its error, if somebody caused it."""
    explained = arena.disturbances.explains(answer.outcome, model.name, answer.began, answer.ended)
    return frozenset({answer.outcome}) if explained else frozenset()


def _body(model: Model, question: Question, chance: random.Random, **more: object) -> dict[str, object]:
    body = {"model": model.name, **question.body, **more}
    if chance.random() < 0.1:
        body["keep_alive"] = chance.choice([0, "2s", -1, "5m", 30])
    return body


def whole(arena: Arena, chance: random.Random) -> None:
    model, question = pick(arena, chance)
    body = _body(model, question, chance)
    answer = ask(arena.url, "POST", question.path, body, leave_after_s=model.patience_s)
    check(arena, "whole reply", model, question, answer)


def stream(arena: Arena, chance: random.Random) -> None:
    model, question = pick(arena, chance)
    body = _body(model, question, chance, stream=True)
    answer = ask(arena.url, "POST", question.path, body, leave_after_s=model.patience_s)
    check(arena, "stream", model, question, answer)


def leave_a_stream(arena: Arena, chance: random.Random) -> None:
    model, question = pick(arena, chance)
    body = _body(model, question, chance, stream=True)
    answer = ask(
        arena.url,
        "POST",
        question.path,
        body,
        leave_after_events=chance.choice([0, 1, 1, 2, 5, 20]),
        leave_after_s=chance.choice([0.3, 1.0, 3.0]),
    )
    check(arena, "stream, left", model, question, answer)


def leave_a_whole_reply(arena: Arena, chance: random.Random) -> None:
    """While it is queued, its model is loaded, or it runs."""
    model, question = pick(arena, chance)
    body = _body(model, question, chance)
    patience_s = chance.choice([0.0, 0.01, 0.05, 0.2, 0.6, 1.5])
    answer = ask(arena.url, "POST", question.path, body, leave_after_s=patience_s)
    check(arena, "whole reply, left", model, question, answer)


def leave_a_body(arena: Arena, chance: random.Random) -> None:
    model, question = pick(arena, chance)
    body = _body(model, question, chance)
    answer = ask(arena.url, "POST", question.path, body, cut_body=True)
    check(arena, "half a body", model, question, answer)


MALFORMED: tuple[tuple[str, bytes, int, str], ...] = (
    ("/v1/completions", b"{", 400, "invalid_request"),
    ("/v1/completions", b"[" * 50_000, 400, "invalid_request"),
    ("/v1/chat/completions", b'{"model": "MODEL", "messages": 3}', 400, "invalid_request"),
    ("/v1/completions", b'{"model": "MODEL", "prompt": "x", "max_tokens": -1}', 400, "invalid_request"),
    ("/v1/completions", b'{"model": "MODEL", "prompt": "x", "stop": [""]}', 400, "unsupported_stop_string"),
    ("/v1/completions", b'{"model": "MODEL", "prompt": "x", "top_p": "no"}', 400, "invalid_request"),
    ("/v1/nonsense", b"{}", 404, "not_found"),
)


def malformed(arena: Arena, chance: random.Random) -> None:
    path, raw, status, code = chance.choice(MALFORMED)
    model = chance.choice(arena.cast.models)
    answer = ask(arena.url, "POST", path, raw.replace(b"MODEL", model.name.encode()))
    arena.record("malformed request", answer.outcome, answer.seconds)
    if (answer.status, answer.outcome) != (status, code) and not _excused(arena, answer):
        arena.fail(f"malformed {raw[:60]!r}: {answer.status} {answer.outcome}, expected {status} {code}")


def unknown_model(arena: Arena, chance: random.Random) -> None:
    name = chance.choice(["stedy-a", "nobody", "../../etc", "x" * 300, "tiny-z", "random-lama"])
    answer = ask(arena.url, "POST", "/v1/completions", {"model": name, "prompt": "x"})
    arena.record("unknown model", answer.outcome, answer.seconds)
    if answer.outcome != "model_not_found" and not _excused(arena, answer):
        arena.fail(f"unknown model {name!r}: {answer.status} {answer.outcome}")


def poison(arena: Arena, chance: random.Random) -> None:
    """A request that fails alone, beside others of its model."""
    steady = [model for model in arena.cast.models if model.name.startswith("steady")]
    if not steady:
        return
    model = chance.choice(steady)
    answer = ask(arena.url, "POST", "/v1/completions", {"model": model.name, "prompt": "poison"})
    arena.record("request that fails alone", answer.outcome, answer.seconds)
    explained = arena.disturbances.explains(answer.outcome, model.name, answer.began, answer.ended)
    if answer.outcome != "engine_error" and not explained:
        arena.fail(f"poison for {model.name}: {answer.status} {answer.outcome} {answer.message}")


def _excused(arena: Arena, answer: Answer) -> bool:
    return arena.disturbances.explains(answer.outcome, "", answer.began, answer.ended)


def look_on(arena: Arena, chance: random.Random) -> None:
    path = chance.choice(["/pool", "/v1/models", "/health", "/ready", "/pool/events", "/metrics"])
    answer = ask(arena.url, "GET", path, leave_after_s=chance.choice([0.5, 2.0, 4.0]))
    if answer.outcome in ("not_found", "method_not_allowed"):
        return  # not built yet
    arena.record(f"GET {path}", answer.outcome, answer.seconds)
    if answer.outcome not in ("ok", "left", "not_ready") and not _excused(arena, answer):
        arena.fail(f"GET {path}: {answer.status} {answer.outcome} {answer.message}")


def command_line(arena: Arena, chance: random.Random) -> None:
    """Readers that come and go."""
    model = chance.choice(arena.cast.models).name
    verbs = [("ps",), ("ps", "--json"), ("list",), ("logs", model), ("logs", model, "-f"), ("events",)]
    arguments = chance.choice([verb for verb in verbs if verb[0] in available_verbs(arena)])
    endless = "-f" in arguments or arguments[0] == "events"
    began = time.monotonic()
    process = arena.cli(*arguments, unread=endless)
    code = _wait(process, chance.choice([1.0, 3.0]) if endless else COMMAND_LIMIT_S)
    ended = time.monotonic()
    name = " ".join(part for part in arguments if part != model)
    if code is None and not endless:
        arena.fail(f"mlxk {name} hangs")
    left = _end(process, chance)
    outcome = "left" if code is None else f"exit {code}"
    arena.record(f"mlxk {name}", outcome, ended - began)
    # A verb reads config.toml itself, which may be wrong at this moment.
    excused = arena.disturbances.touched("", began, ended, "server", "server killed", "reload")
    # logs of a model that never ran are an error, as is any verb while no server runs
    if code not in (None, 0, *((1, 3) if excused or "logs" in arguments else ())):
        arena.fail(f"mlxk {name}: exit code {code}: {left[-600:]}")


def interrupted_run(arena: Arena, chance: random.Random) -> None:
    """Ctrl-C of `mlxk run` in the middle of its answer."""
    model, question = pick(arena, chance)
    if "prompt" not in question.body or model.expected_errors or "\n" in question.body["prompt"]:
        return
    began = time.monotonic()
    limit = str(question.body["max_tokens"])
    prompt = question.body["prompt"]
    process = arena.cli(
        "run", model.name, prompt, "--no-chat-template", "--temperature", "0", "--max-tokens", limit
    )
    code = _wait(process, chance.choice([0.2, 0.4, 0.8, 1.5]))
    if code is None:
        process.send_signal(signal.SIGINT)
        code = _wait(process, 20.0)
    ended = time.monotonic()
    if code is None:
        arena.fail("mlxk run had not ended 20 s after Ctrl-C")
    _end(process, chance)
    arena.record("Ctrl-C of mlxk run", f"exit {code}", ended - began)
    kinds = ("kill", "term", "freeze", "stop", "server", "server killed", "burst", "reload")
    if code not in (0, 130, -signal.SIGINT) and not arena.disturbances.touched(
        model.name, began, ended, *kinds
    ):
        arena.fail(f"mlxk run {model.name}: exit code {code} without a cause")


def _wait(process: subprocess.Popen[str], limit_s: float) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(limit_s)
    return None


def _end(process: subprocess.Popen[str], chance: random.Random) -> str:
    """Whatever it is doing; returns what it wrote to stderr."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, chance.choice([signal.SIGINT, signal.SIGKILL, signal.SIGTERM]))
        if _wait(process, 10.0) is None:
            process.kill()
    _, errors = process.communicate()
    return errors


def available_verbs(arena: Arena) -> frozenset[str]:
    """Of the command line as it is installed."""
    from mlxk.cli.main import VERBS  # type: ignore[attr-defined]

    return frozenset(VERBS)


def burst(arena: Arena, chance: random.Random) -> None:
    """More requests at once for one model than it has places: some are refused, none is lost."""
    from concurrent.futures import ThreadPoolExecutor

    model, question = pick(arena, chance)
    if model.expected_errors or model.patience_s:
        return
    body = _body(model, question, chance)
    with arena.disturbances.going_on("burst", model.name), ThreadPoolExecutor(12) as threads:
        url = arena.url
        answers = list(threads.map(lambda _: ask(url, "POST", question.path, body), range(12)))
        for answer in answers:
            check(arena, "12 at once", model, question, answer)


def ps_once(arena: Arena, chance: random.Random) -> None:
    began = time.monotonic()
    try:
        arena.server.ps()
    except GONE as error:
        arena.record("ps (control socket)", type(error).__name__, time.monotonic() - began)
        explained = arena.disturbances.explains("cut", "", began, time.monotonic())
        if isinstance(error, ControlTimeoutError) or not explained:  # nothing excuses silence
            arena.fail(f"ps: {type(error).__name__}: {error}")
        return
    arena.record("ps (control socket)", "ok", time.monotonic() - began)


OPERATIONS: dict[str, tuple[float, Operation]] = {
    "whole": (10, whole),
    "stream": (14, stream),
    "leave a stream": (7, leave_a_stream),
    "leave a whole reply": (6, leave_a_whole_reply),
    "half a body": (2, leave_a_body),
    "malformed": (2, malformed),
    "unknown model": (2, unknown_model),
    "poison": (1, poison),
    "burst": (1, burst),
    "look on": (2, look_on),
    "ps": (2, ps_once),
    "command line": (0.6, command_line),
    "interrupted run": (0.5, interrupted_run),
}
