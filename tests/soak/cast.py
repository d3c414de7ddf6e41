"""The models of the soak: what is asked of them, and what they must say.

    python -m tests.soak.cast HOME      makes the real models in HOME and prints their reference answers

(in a process of its own: MLX is not imported into the soak). The references are mlx_lm's own greedy tokens,
one sequence at a time; for copies of `tiny` they are what its makers promise.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.prompts import expected_cases
from tests.models import copy_builtin_model, make_random_model
from tests.server import add_fake_model

RANDOM_PROMPTS = (
    "The sky is",
    "Count from 1 to 10, one number per line:\n1\n2\n",
    "one two three four five six seven eight nine ten " * 4,
    "x = [1, 2, 3]\nfor i in x:\n    print(i)\n",
)
RANDOM_TOKENS = 24
TINY_KINDS = ("count", "color", "repeat", "greeting", "language", "identity", "emoji")
HUGE_BYTES = 64 * 1024**3
OVERDUE_S = 3.0


@dataclass(frozen=True, slots=True)
class Question:
    """One request body (without its model) for one path, and the one right answer."""

    path: str
    body: dict[str, Any]
    text: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    questions: tuple[Question, ...]
    expected_errors: frozenset[str] = frozenset()
    """Codes that its own faults explain, at any time."""
    patience_s: float | None = None
    """Its clients leave then: it would never answer."""
    pinned: bool = False
    weight: int = 4
    """How often it is asked, against the others."""


@dataclass(frozen=True, slots=True)
class Cast:
    models: tuple[Model, ...]
    pinned: frozenset[str] = field(default_factory=frozenset)


def counted(words: int) -> Question:
    """For the fake engine, which says so many words whatever it is asked."""
    text = " ".join(f"w{i}" for i in range(words))
    return Question("/v1/completions", {"prompt": f"go {words}", "max_tokens": words}, text, "length")


SHORT = tuple(counted(words) for words in (1, 3, 8, 30))
LONG = (*SHORT, counted(150), counted(400))
DIES = frozenset({"worker_died", "model_failed"})
LOADS_NOT = frozenset({"model_load_failed", "model_failed"})


def fake_cast(home: Path) -> Cast:
    """Steady models and one for each fault of the fake engine."""
    steady = [Model(f"steady-{name}", LONG, weight=10) for name in "abc"]
    for model in steady:
        add_fake_model(home, model.name, step_s=0.004, fail_request="poison")
    add_fake_model(home, "rock", step_s=0.004)
    add_fake_model(home, "slow-load", load_s=1.0)
    add_fake_model(home, "crasher", crash_at_step=40)
    add_fake_model(home, "hanger", hang_at_step=60)
    add_fake_model(home, "laggard", slow_abort_s=4.0, step_s=0.004)
    add_fake_model(home, "deaf", deaf_to_shutdown=True, ignore_sigterm=True)
    add_fake_model(home, "fatal", die_in_load=True)
    add_fake_model(home, "refuser", load_fails=True)
    add_fake_model(home, "stalled", load_hangs=True)
    add_fake_model(home, "flood", flood_log_lines=20_000)
    add_fake_model(home, "longline", long_log_line_bytes=1_000_000)
    _make_huge(add_fake_model(home, "huge"))
    models = [
        *steady,
        Model("rock", LONG, pinned=True, weight=5),
        Model("slow-load", SHORT),
        Model("crasher", SHORT, DIES),
        Model("hanger", SHORT, DIES, patience_s=OVERDUE_S),
        Model("laggard", LONG, DIES),
        Model("deaf", SHORT, weight=2),
        Model("fatal", SHORT, LOADS_NOT, weight=1),
        Model("refuser", SHORT, LOADS_NOT, weight=1),
        Model("stalled", SHORT, LOADS_NOT | {"worker_died"}, weight=1),
        Model("flood", SHORT, weight=2),
        Model("longline", SHORT, weight=2),
        Model("huge", SHORT, frozenset({"insufficient_memory"}), weight=1),
    ]
    return Cast(tuple(models), frozenset({"rock"}))


def _make_huge(folder: Path) -> None:
    """Healthy weights larger than any limit, that take no disk: a sparse file."""
    header = {"w": {"dtype": "F32", "shape": [HUGE_BYTES // 4], "data_offsets": [0, HUGE_BYTES]}}
    data = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(data)) + data)
        file.truncate(8 + len(data) + HUGE_BYTES)


def real_cast(home: Path) -> Cast:
    """Two copies of `tiny`, and two architectures with random weights."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak.cast", str(home)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    references: dict[str, list[list[str]]] = json.loads(done.stdout.splitlines()[-1])
    models = [Model(name, _tiny_questions(), weight=6) for name in ("tiny-a", "tiny-b")]
    for name, pairs in references.items():
        models.append(Model(name, tuple(_continuation(prompt, text) for prompt, text in pairs)))
    return Cast(tuple(models))


def _tiny_questions() -> tuple[Question, ...]:
    return tuple(
        Question(
            "/v1/chat/completions",
            {"messages": case["messages"], "max_tokens": case["max_tokens"], "temperature": 0},
            case["content"],
            case["finish_reason"],
        )
        for case in expected_cases()
        if case["kind"] in TINY_KINDS and "messages" in case and not case.get("tools")
        if not case.get("reasoning_content") and not case.get("chat_template_kwargs")
        if not any(mark in case["content"] for mark in ("\nHuman:", "\nAssistant:", "\nUser:", "\nYou:"))
    )


def _continuation(prompt: str, text: str) -> Question:
    body = {"prompt": prompt, "max_tokens": RANDOM_TOKENS, "temperature": 0, "ignore_eos": True}
    return Question("/v1/completions", body, text, "length")


def _make_real(home: Path) -> dict[str, list[tuple[str, str]]]:
    from mlx_lm import load, stream_generate

    for name in ("tiny-a", "tiny-b"):
        copy_builtin_model(home / "models" / name)
    references = {}
    for name, kind in (("random-llama", "llama"), ("random-gemma", "sliding_window")):
        folder = make_random_model(home / "models" / name, kind)  # type: ignore[arg-type]
        model, tokenizer = load(str(folder))[:2]
        tokenizer.eos_token_ids.clear()  # they go on, as `ignore_eos` makes the server's
        answers = []
        for prompt in RANDOM_PROMPTS:
            tokens = [
                response.token
                for response in stream_generate(
                    model, tokenizer, tokenizer.encode(prompt), max_tokens=RANDOM_TOKENS
                )
            ]
            answers.append((prompt, tokenizer.decode(tokens, skip_special_tokens=True)))
        references[name] = answers
    return references


if __name__ == "__main__":
    print(json.dumps(_make_real(Path(sys.argv[1]))))
