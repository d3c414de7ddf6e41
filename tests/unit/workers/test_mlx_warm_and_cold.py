"""With a warm cache a request says what it says with a cold one, whatever happened in between.

`MLXK_SESSIONS=200 pytest -m soak tests/unit/workers/test_mlx_warm_and_cold.py -s` plays that many sessions
with each model, others than the suite's, and prints what has been compared.
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlxk.workers.protocol import Generate
from tests.models import FURTHER_KINDS, MODEL_KINDS, make_random_model
from tests.unit.workers.engines import (
    GREEDY,
    Conversation,
    RecordingEngine,
    encode,
    load_engine,
    run,
    run_one,
)
from tests.unit.workers.warm_and_cold import (
    BUSY_PREFILL_CHUNK,
    PREFILL_CHUNK,
    TOLERANCE,
    Session,
    Step,
    Tally,
    check,
    cold_replies,
    difference,
    differences,
    draw_session,
)

KINDS = [*MODEL_KINDS, *FURTHER_KINDS]
SUITE_SEEDS = (11, 33)
"""Of the further architectures only the first."""
FIRST_SOAK_SEED = 10_000
SOAK_SESSIONS = int(os.environ.get("MLXK_SESSIONS", "30"))
SENTENCE = "A prompt that is longer than a chunk of the prefill and longer than the window, too. "


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: make_random_model(folder / kind, kind) for kind in KINDS}


@pytest.fixture
def play(paths: dict[str, Path]) -> Iterator[Callable[[str, list[Step], Tally], None]]:
    """Plays a session with a new engine, and judges it."""
    bare: dict[str, RecordingEngine] = {}

    def play(kind: str, steps: list[Step], tally: Tally) -> None:
        if kind not in bare:
            bare[kind] = load_engine(paths[kind], cache_bytes=0, prefill_chunk=PREFILL_CHUNK)
        engine = load_engine(paths[kind], prefill_chunk=PREFILL_CHUNK, busy_prefill_chunk=BUSY_PREFILL_CHUNK)
        try:
            session = Session(engine)
            session.play(steps)
            check(session, cold_replies(bare[kind]), tally)
        finally:
            engine.close()

    yield play
    for engine in bare.values():
        engine.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_session_says_what_its_requests_say_cold(
    kind: str, play: Callable[[str, list[Step], Tally], None]
) -> None:
    tally = Tally()
    for seed in SUITE_SEEDS if kind in MODEL_KINDS else SUITE_SEEDS[:1]:
        play(kind, draw_session(seed), tally)
    # Not for want of something to compare:
    assert tally.warm >= 6
    assert tally.aborted >= 2
    assert tally.caches >= 4


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", KINDS)
def test_many_random_sessions_say_what_their_requests_say_cold(
    kind: str, play: Callable[[str, list[Step], Tally], None]
) -> None:
    tally = Tally()
    for seed in range(FIRST_SOAK_SEED, FIRST_SOAK_SEED + SOAK_SESSIONS):
        try:
            play(kind, draw_session(seed), tally)
        except BaseException:
            print(f"\n{kind}: session {seed}")
            raise
    print(f"\n{kind}: {tally}")


@pytest.fixture
def engine(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Iterator[RecordingEngine]:
    engine = load_engine(paths[request.param], prefill_chunk=PREFILL_CHUNK)
    yield engine
    engine.close()


@pytest.mark.parametrize("engine", KINDS, indirect=True)
def test_the_judge_notices_one_token_too_many_and_one_that_is_another(engine: RecordingEngine) -> None:
    """Of a kept cache, in every architecture: else the sessions above would prove nothing."""
    run_one(engine, tokens=encode(engine, SENTENCE), max_tokens=5, ignore_eos=True)
    key, entry = max(engine._prefixes._entries.items(), key=lambda item: item[1].n_tokens)
    tokens = array("I", key).tolist()
    assert difference(engine, tokens, entry.cache) < TOLERANCE
    for wrong in (tokens[:-1], [*tokens[:-2], tokens[-2] ^ 1, tokens[-1]], [*tokens, 9]):
        assert difference(engine, wrong, entry.cache) > 50 * TOLERANCE


@pytest.mark.parametrize("engine", KINDS, indirect=True)
def test_an_abort_at_every_step_of_a_request_leaves_nothing_wrong(engine: RecordingEngine) -> None:
    """Queued, after every chunk of the prefill, at its end, at the first token and at every later one. What
    is kept is all that was computed, and the same request again says what it says cold."""
    prompt = encode(engine, SENTENCE)
    request = Generate("a", tokens=prompt, max_tokens=6, ignore_eos=True, sampling=GREEDY)
    cold = run(engine, request)["a"].tokens
    for n_steps in itertools.count():
        engine.trim_cache(0)
        engine.trim_cache(1 << 26)
        conversation = Conversation(engine)
        conversation.submit(request)
        conversation.step(n_steps)
        reply = conversation.replies["a"]
        if reply.finished is not None:
            break
        conversation.abort("a")
        assert max(differences(engine), default=0.0) < TOLERANCE
        again = run(engine, request)["a"]
        assert again.tokens == cold
        prefilled = reply.progress[-1].done if reply.progress else 0
        assert again.cached == (len(prompt) - 1 if reply.tokens else prefilled)
    assert n_steps >= len(prompt) // PREFILL_CHUNK + len(cold)
